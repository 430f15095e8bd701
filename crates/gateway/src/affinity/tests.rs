use super::*;
use proptest::prelude::*;

fn release(number: u64) -> ReleaseNumber {
    ReleaseNumber(number)
}

/// Users as they come: by the own cookie, by numbers, by addresses of mail.
fn users(count: u64) -> Vec<User> {
    let key = |n: u64| match n % 3 {
        0 => digits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        1 => n.to_string(),
        _ => format!("user{n}@shop.example"),
    };
    (0..count).map(|n| User::of(key(n).as_bytes())).collect()
}

#[test]
fn raising_the_weight_moves_users_to_the_candidate_alone_and_an_abort_moves_them_back_once() {
    const USERS: usize = 100_000;
    let users = users(USERS as u64);
    let has = |user: &User, weight: u16| user.place(release(7)) < weight;
    let mut moves = vec![0; USERS];
    let mut on: Vec<bool> = vec![false; USERS];
    for (weight, share) in [(1000, 0.1), (5000, 0.5), (EVERYBODY, 1.0)] {
        for (place, user) in users.iter().enumerate() {
            assert!(!on[place] || has(user, weight), "a user went back");
            moves[place] += u32::from(on[place] != has(user, weight));
            on[place] = has(user, weight);
        }
        let there = on.iter().filter(|on| **on).count() as f64 / USERS as f64;
        assert!((there - share).abs() < 0.005, "{there} of users at {share}");
    }
    assert!(users.iter().all(|user| !has(user, 0)));
    assert!(moves.iter().all(|moves| *moves == 1));
}

#[test]
fn the_next_release_picks_others_first() {
    let users = users(100_000);
    for next in [8, 9, 107] {
        let first: Vec<_> = users.iter().filter(|user| user.place(release(7)) < 1000).collect();
        let again = first.iter().filter(|user| user.place(release(next)) < 1000).count();
        let overlap = again as f64 / first.len() as f64;
        assert!((0.085..0.115).contains(&overlap), "{overlap} of the first tenth are again in r{next}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Chi-squared over 100 equal parts of the places, for any release and any way keys are numbered. With 99
    /// degrees of freedom the mean is 99 and the standard deviation 14; 200 is more than seven of them.
    #[test]
    fn places_are_uniform(number in any::<u64>(), start in 0..u64::MAX / 2, prefix in "[a-z]{0,20}") {
        const KEYS: u64 = 20_000;
        let mut parts = [0_u32; 100];
        for n in start..start + KEYS {
            let user = User::of(format!("{prefix}{n}").as_bytes());
            parts[usize::from(user.place(release(number)) / 100)] += 1;
        }
        let expected = KEYS as f64 / 100.0;
        let chi: f64 = parts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        prop_assert!(chi < 200.0, "{}", chi);
    }
}

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    map
}

#[test]
fn users_are_told_apart_by_what_the_release_says_and_by_the_own_cookie_otherwise() {
    const OWN: &str = "0123456789abcdef";
    let own = Key::from(&Affinity::OwnCookie);
    let session = Key::from(&Affinity::Cookie("sid".into()));
    let header = Key::from(&Affinity::Header("x-user".into()));
    assert_eq!(Key::from(&Affinity::Header("not a name".into())), Key::Own);
    let fresh = "00000000000000ff";
    for (key, lines, user, left) in [
        (&own, &[][..], None, &[][..]),
        (&own, &[("cookie", "a=b; mainstay-affinity=0123456789abcdef; c=d")], Some(OWN), &["a=b; c=d"]),
        (
            &own,
            &[("cookie", "a=b"), ("cookie", "mainstay-affinity=0123456789abcdef"), ("cookie", "c")],
            Some(OWN),
            &["a=b", "c"],
        ),
        (&own, &[("cookie", "mainstay-affinity=short")], None, &[]),
        (&own, &[("cookie", "mainstay-affinity=0123456789ABCDEF;x=y")], None, &["x=y"]),
        (
            &own,
            &[("cookie", "xmainstay-affinity=0123456789abcdef")],
            None,
            &["xmainstay-affinity=0123456789abcdef"],
        ),
        (&own, &[("cookie", "sid=7")], None, &["sid=7"]),
        (&session, &[("cookie", "a=b;sid=7 ;c=d")], Some("7"), &["a=b;sid=7 ;c=d"]),
        (&session, &[("cookie", "SID=7; sid=")], None, &["SID=7; sid="]),
        (&session, &[("cookie", "mainstay-affinity=0123456789abcdef; sid=7")], Some("7"), &["sid=7"]),
        (&session, &[("cookie", "mainstay-affinity=0123456789abcdef")], Some(OWN), &[]),
        (&header, &[("x-user", "7"), ("x-user", "8")], Some("7"), &[]),
        (&header, &[("x-user", ""), ("cookie", "mainstay-affinity=0123456789abcdef")], Some(OWN), &[]),
        (&header, &[], None, &[]),
    ] {
        let mut map = fields(lines);
        let (seen, cookie) = recognise(&mut map, key, || 255);
        assert_eq!(seen, User::of(user.unwrap_or(fresh).as_bytes()), "{key:?} {lines:?}");
        assert_eq!(cookie, user.is_none().then_some(255), "{key:?} {lines:?}");
        assert_eq!(map.get_all(COOKIE).iter().collect::<Vec<_>>(), left, "{key:?} {lines:?}");
    }
    assert_eq!(set_cookie(255), "mainstay-affinity=00000000000000ff; Path=/; HttpOnly; SameSite=Lax");
}
