//! What `./bench queue` drives the gateway and its peers with, so that all of them have the same client.
//!
//! `queue_load send http|nats|redis ADDRESS` writes and waits for acknowledgements. `queue_load serve ADDRESS` is a
//! service of known capacity that counts what it gets. Both print one JSON object for each thing they have to say.

mod protocol;
mod send;
mod serve;
mod tally;

use protocol::Protocol;
use send::Plan;
use serve::Service;
use std::error::Error;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

const USAGE: &str =
    "usage: queue_load send http|nats|redis ADDRESS [--in-flight N] [--connections N] [--seconds S]
         [--warm-up S] [--count N] [--rate PER-SECOND] [--path PATH] [--prefer TEXT]
       queue_load serve ADDRESS [--slots N] [--work SECONDS] [--places N]

  --in-flight    requests that are not answered yet, over all connections (1)
  --connections  as many as there are requests in flight, unless told otherwise; HTTP takes no fewer
  --seconds      how long is measured (2)
  --warm-up      how long is sent before that (0.3)
  --count        ends after so many acknowledgements, if that comes first
  --rate         sends so many a second, planned in advance; latency counts from the planned instant
  --path         of HTTP requests (/orders)
  --prefer       a Prefer field for HTTP requests
  --slots        requests that the service works on at once (16)
  --work         how long it works on one (0)
  --places       requests in the service, beyond which it answers 503 (1000)";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["send", protocol, address, ref options @ ..] => {
            let plan = plan(protocol, address.parse()?, options)?;
            let found = runtime.block_on(tokio::task::LocalSet::new().run_until(send::run(plan)))?;
            println!("{}", found.json());
        }
        ["serve", address, ref options @ ..] => {
            let service = service(options)?;
            runtime
                .block_on(tokio::task::LocalSet::new().run_until(serve::run(address.parse()?, service)))?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn plan(protocol: &str, address: SocketAddr, options: &[&str]) -> Result<Plan, Box<dyn Error>> {
    let (mut path, mut prefer) = ("/orders".to_owned(), None);
    let (mut in_flight, mut connections) = (1, None);
    let (mut seconds, mut warm_up) = (Duration::from_secs(2), Duration::from_millis(300));
    let (mut count, mut rate) = (u64::MAX, None);
    for (name, value) in pairs(options)? {
        match name {
            "--in-flight" => in_flight = number(name, value)?,
            "--connections" => connections = Some(number(name, value)?),
            "--seconds" => seconds = Duration::from_secs_f64(number(name, value)?),
            "--warm-up" => warm_up = Duration::from_secs_f64(number(name, value)?),
            "--count" => count = number(name, value)?,
            "--rate" => rate = Some(number(name, value)?),
            "--path" => path = value.to_owned(),
            "--prefer" => prefer = Some(value.to_owned()),
            other => return Err(format!("unknown option `{other}`\n{USAGE}").into()),
        }
    }
    let protocol = match protocol {
        "http" => Protocol::http(address, &path, prefer.as_deref()),
        "nats" => Protocol::Nats,
        "redis" => Protocol::Redis,
        other => return Err(format!("`{other}` is no protocol\n{USAGE}").into()),
    };
    let connections: usize = connections.unwrap_or(in_flight);
    if connections == 0 || connections > in_flight || (protocol.is_http() && connections != in_flight) {
        return Err(format!("{connections} connections cannot have {in_flight} requests in flight").into());
    }
    Ok(Plan { protocol, address, in_flight, connections, seconds, warm_up, count, rate })
}

fn service(options: &[&str]) -> Result<Service, Box<dyn Error>> {
    let mut service = Service { slots: 16, work: Duration::ZERO, places: 1000 };
    for (name, value) in pairs(options)? {
        match name {
            "--slots" => service.slots = number(name, value)?,
            "--work" => service.work = Duration::from_secs_f64(number(name, value)?),
            "--places" => service.places = number(name, value)?,
            other => return Err(format!("unknown option `{other}`\n{USAGE}").into()),
        }
    }
    Ok(service)
}

/// Options with their values.
fn pairs<'a>(options: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>, Box<dyn Error>> {
    if !options.len().is_multiple_of(2) {
        return Err(format!("an option has no value\n{USAGE}").into());
    }
    Ok(options.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}: `{value}` is no number that fits"))
}
