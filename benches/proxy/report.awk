# Lines of "ROUND PROXY RATE P99_US CPU_US REQUESTS" become medians and ratios.

function median(list, count,    i, j, swap) {
  for (i = 2; i <= count; i++)
    for (j = i; j > 1 && list[j] + 0 < list[j - 1] + 0; j--) { swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap }
  return count % 2 ? list[(count + 1) / 2] : (list[count / 2] + list[count / 2 + 1]) / 2
}

function of(proxy, what,    i, list) {
  for (i = 1; i <= n[proxy]; i++) list[i] = figure[proxy, what, i]
  return median(list, n[proxy])
}

# The median of a round's own ratios: what a round shares with the next one is the machine's mood.
function ratio(what, proxy, other,    i, list) {
  for (i = 1; i <= n[proxy]; i++) list[i] = figure[proxy, what, i] / figure[other, what, i]
  return median(list, n[proxy])
}

function series(proxy, what,    i, text) {
  for (i = 1; i <= n[proxy]; i++) text = text (i > 1 ? "," : "") figure[proxy, what, i]
  return "[" text "]"
}

{
  i = ++n[$2]
  figure[$2, "rate", i] = $3; figure[$2, "p99", i] = $4; figure[$2, "cpu", i] = $5; figure[$2, "requests", i] = $6
}

END {
  split("nginx haproxy mainstay", proxies, " ")
  if (json) {
    printf "{\"benchmark\":\"proxy\",\"machine\":\"%s\",\"versions\":\"%s\",\"rounds\":%d,\"seconds\":%d,\"connections\":%d,\"logs\":\"%s\",\"proxies\":{", machine, versions, rounds, seconds, connections, logs
    for (p = 1; p <= 3; p++) {
      name = proxies[p]
      printf "%s\"%s\":{\"requests_per_second\":%.1f,\"p99_us\":%.0f,\"cpu_us\":%.3f,\"rounds\":{\"requests_per_second\":%s,\"p99_us\":%s,\"cpu_us\":%s,\"requests\":%s}}", \
        (p > 1 ? "," : ""), name, of(name, "rate"), of(name, "p99"), of(name, "cpu"), series(name, "rate"), series(name, "p99"), series(name, "cpu"), series(name, "requests")
    }
    printf "},\"ratios\":{\"cpu_nginx\":%.3f,\"p99_nginx\":%.3f,\"rate_nginx\":%.3f,\"cpu_haproxy\":%.3f,\"p99_haproxy\":%.3f,\"rate_haproxy\":%.3f}}\n", \
      ratio("cpu", "mainstay", "nginx"), ratio("p99", "mainstay", "nginx"), ratio("rate", "mainstay", "nginx"), \
      ratio("cpu", "mainstay", "haproxy"), ratio("p99", "mainstay", "haproxy"), ratio("rate", "mainstay", "haproxy")
  } else {
    printf "%s; %s\n%d rounds of %d s, %d connections, access logs %s; medians\n\n", machine, versions, rounds, seconds, connections, logs
    printf "%-10s %12s %10s %14s\n", "", "requests/s", "p99", "CPU/request"
    for (p = 1; p <= 3; p++) {
      name = proxies[p]
      printf "%-10s %12.0f %7.2f ms %11.2f us\n", name, of(name, "rate"), of(name, "p99") / 1000, of(name, "cpu")
    }
    printf "\nmainstay against nginx:   CPU %.2f, p99 %.2f, rate %.2f\n", ratio("cpu", "mainstay", "nginx"), ratio("p99", "mainstay", "nginx"), ratio("rate", "mainstay", "nginx")
    printf "mainstay against haproxy: CPU %.2f, p99 %.2f, rate %.2f\n", ratio("cpu", "mainstay", "haproxy"), ratio("p99", "mainstay", "haproxy"), ratio("rate", "mainstay", "haproxy")
  }
}
