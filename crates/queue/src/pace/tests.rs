use super::*;
use proptest::prelude::*;

const LONGEST: Duration = Duration::from_secs(60);

#[test]
fn pauses_double_and_any_share_is_drawn() {
    for (attempt, most) in
        [(1, 500), (2, 1_000), (3, 2_000), (7, 32_000), (8, 60_000), (32, 60_000), (99, 60_000)]
    {
        assert_eq!(pause(attempt, LONGEST, 0), Duration::ZERO);
        assert_eq!(pause(attempt, LONGEST, u64::MAX), Duration::from_millis(most), "{attempt}");
        assert_eq!(pause(attempt, LONGEST, 1 << 63).as_millis() as u64, most.div_ceil(2));
    }
    assert_eq!(pause(5, Duration::ZERO, u64::MAX), Duration::ZERO);
}

/// Calls one after the other, each with this sign.
fn play(pace: &mut Pace, now: Moment, jobs: impl IntoIterator<Item = u64>, sign: Sign) {
    for job in jobs {
        let begun = pace.begin(now);
        pace.end(begun, job, sign, now, u64::MAX);
    }
}

#[test]
fn one_job_that_fails_opens_nothing_and_five_do() {
    let mut pace = Pace::new(8);
    play(&mut pace, 0, [7; 50], Sign::Failing);
    assert_eq!(pace.breaker(), Breaker::Closed);
    play(&mut pace, 0, 1..=3, Sign::Failing);
    play(&mut pace, 0, [9], Sign::Well);
    play(&mut pace, 0, 1..=4, Sign::Failing);
    assert_eq!(pace.breaker(), Breaker::Closed, "one that worked starts the count again");
    play(&mut pace, 0, [5], Sign::Failing);
    assert_eq!(pace.breaker(), Breaker::Open);
    assert_eq!(pace.may_call(499), Permission::NotBefore(500));
}

#[test]
fn an_open_breaker_tries_one_call_after_ever_longer_pauses_and_starts_slowly() {
    let mut pace = Pace::new(8);
    play(&mut pace, 0, 1..=5, Sign::Failing);
    let mut now = 0;
    for expected in [500, 1_000, 2_000, 4_000, 5_000, 5_000] {
        let Permission::NotBefore(until) = pace.may_call(now) else { panic!("open") };
        assert_eq!(until - now, expected);
        now = until;
        assert_eq!(pace.may_call(now), Permission::Trial);
        let trial = pace.begin(now);
        assert_eq!((pace.breaker(), pace.may_call(now)), (Breaker::HalfOpen, Permission::Full));
        pace.end(trial, 1, Sign::Failing, now, u64::MAX);
    }
    now += 5_000;
    let trial = pace.begin(now);
    assert!(pace.end(trial, 1, Sign::Well, now, 0), "it closes");
    // Rounds of as many calls as are allowed: 1, 2, 4, then one more for each round.
    let mut rounds = Vec::new();
    for _ in 0..8 {
        let mut begun = Vec::new();
        while pace.may_call(now) == Permission::Yes {
            begun.push(pace.begin(now));
        }
        rounds.push(begun.len());
        for call in begun {
            pace.end(call, 1, Sign::Well, now, 0);
        }
    }
    assert_eq!(rounds[..4], [1, 2, 4, 5]);
    assert_eq!(rounds.last(), Some(&8));
}

#[test]
fn what_was_under_way_when_it_opened_neither_closes_nor_prolongs_it() {
    let mut pace = Pace::new(32);
    let late: Vec<Begun> = (0..10).map(|_| pace.begin(0)).collect();
    play(&mut pace, 0, 1..=5, Sign::Failing);
    let before = pace.may_call(0);
    pace.end(late[0], 20, Sign::Well, 0, u64::MAX);
    pace.end(late[1], 21, Sign::Failing, 0, u64::MAX);
    assert_eq!(pace.may_call(0), before);
    let trial = pace.begin(500);
    assert!(trial.trial);
    pace.end(late[2], 22, Sign::Well, 500, 0);
    assert_eq!(pace.breaker(), Breaker::HalfOpen);
    pace.undo(trial, 500);
    assert_eq!(pace.may_call(500), Permission::Trial, "a trial that was not made is made again");
}

#[test]
fn a_strain_halves_what_is_allowed_once() {
    let mut pace = Pace::new(32);
    let together: Vec<Begun> = (0..32).map(|_| pace.begin(0)).collect();
    for (job, call) in together.into_iter().enumerate() {
        pace.end(call, job as u64, Sign::Strained, 0, 0);
    }
    assert_eq!((pace.allowed(), pace.breaker()), (16, Breaker::Closed));
    play(&mut pace, 0, [1], Sign::Strained);
    assert_eq!(pace.allowed(), 8);
    play(&mut pace, 0, 0..1000, Sign::Well);
    assert_eq!(pace.allowed(), 32);
    pace.set_most(4);
    assert_eq!(pace.allowed(), 4);
    pace.set_most(40);
    assert_eq!(pace.allowed(), 40);
}

proptest! {
    /// Whatever happens, at least one call may be made sooner or later, and never more than the limit.
    #[test]
    fn it_never_stops_for_good(events in proptest::collection::vec((0_u8..5, 0_u64..9, any::<u64>()), 0..300)) {
        let mut pace = Pace::new(4);
        let mut calls = Vec::new();
        let mut now = 0;
        for (event, job, draw) in events {
            match event {
                0 | 1 => match pace.may_call(now) {
                    Permission::Yes | Permission::Trial => calls.push(pace.begin(now)),
                    Permission::Full => prop_assert!(!calls.is_empty(), "full with nothing under way"),
                    Permission::NotBefore(until) => {
                        prop_assert!(until > now && until <= now + 5_000);
                        now = until;
                    }
                },
                sign => if let Some(call) = calls.pop() {
                    let sign = [Sign::Well, Sign::Strained, Sign::Failing][usize::from(sign) - 2];
                    pace.end(call, job, sign, now, draw);
                },
            }
            prop_assert_eq!(pace.in_flight() as usize, calls.len());
            prop_assert!(pace.allowed() <= 4);
        }
    }
}
