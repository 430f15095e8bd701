//! Time: jobs that get too old, that are for later, and clocks that jump.

use crate::stage::{START, Stage, answered, busy, idempotent, request};
use model::queue::{QueueLimits, QueuedRoute};
use queue::{JobState, Submission};
use std::time::Duration;

fn short() -> QueuedRoute {
    QueuedRoute { max_age: Duration::from_secs(100), ..idempotent() }
}

#[tokio::test]
async fn what_is_too_old_is_dead() {
    let stage = Stage::with(QueueLimits { concurrency: 1, ..QueueLimits::default() }, 0);
    let attempted = stage.enqueue(request(short(), "1")).await;
    let call = stage.call().await;
    // One that waits for its turn, one whose turn comes too late, and one that is for later.
    let waits = stage.enqueue(request(short(), "2")).await;
    let patient = QueuedRoute { max_age: Duration::from_secs(1_000), ..idempotent() };
    let good = stage.enqueue(request(patient, "3")).await;
    let later = Submission { deliver_after: Some(Duration::from_secs(150)), ..request(short(), "4") };
    let later = stage.enqueue(later).await;
    stage.clock.advance(Duration::from_secs(101));
    stage.queue.tend();
    assert_eq!(stage.state(waits).await, JobState::Dead);
    assert_eq!(stage.state(good).await, JobState::Waiting);
    stage.report(&call, busy(503, 1));
    assert_eq!(stage.state(attempted).await, JobState::Dead);
    let stage = stage.kill();
    stage.play(Duration::from_secs(100), |_| answered(200, "")).await;
    assert_eq!((stage.state(good).await, stage.state(later).await), (JobState::Done, JobState::Done));
}

#[tokio::test]
async fn what_is_too_old_when_its_turn_comes_is_dead() {
    let stage = Stage::new();
    stage.queue.pause(None, 0).await.unwrap();
    let name = stage.enqueue(request(short(), "1")).await;
    stage.clock.advance(Duration::from_secs(101));
    stage.queue.resume(None, 0).await.unwrap();
    assert!(stage.due().await.is_none());
    assert_eq!(stage.state(name).await, JobState::Dead);
    // Retried, its age begins anew, also for a process that finds it.
    assert_eq!(stage.queue.retry(queue::Selection::Jobs(vec![name.id]), 0).await.unwrap(), 1);
    let call = stage.call().await;
    stage.report(&call, busy(503, 5));
    stage.settled().await;
    let stage = stage.kill();
    stage.play(Duration::from_secs(10), |_| answered(200, "")).await;
    assert_eq!(stage.state(name).await, JobState::Done);
}

#[tokio::test]
async fn a_clock_that_is_set_changes_nothing_that_is_due() {
    let stage = Stage::new();
    let name = stage.enqueue(request(short(), "1")).await;
    let call = stage.call().await;
    // The clock on the wall jumps a year ahead, and back by two: nothing gets older or younger by that.
    for wall_ms in [START + 31_536_000_000, START - 31_536_000_000] {
        stage.clock.set_wall(wall_ms);
        stage.queue.tend();
        assert!(stage.due().await.is_none());
    }
    stage.report(&call, busy(503, 10));
    stage.clock.advance(Duration::from_secs(10));
    let call = stage.due().await.expect("due by the time that has passed");
    stage.report(&call, busy(503, 20));
    stage.settled().await;
    // Found by a process whose clock is a year behind: it waits for no longer than it had to.
    let stage = stage.kill_at(START - 31_536_000_000);
    stage.clock.advance(Duration::from_secs(31));
    let call = stage.due().await.expect("due in spite of the clock");
    stage.report(&call, answered(200, ""));
    assert_eq!(stage.state(name).await, JobState::Done);
}

/// Half a day by the time that passes, in which the clock on the wall is set forward by ten days.
async fn half_a_day_with_a_step(stage: &Stage) {
    const STEP: i64 = 10 * 86_400_000;
    stage.clock.advance(Duration::from_secs(6 * 3_600));
    stage.clock.set_wall(START + 6 * 3_600_000 + STEP);
    stage.queue.tend();
    stage.settled().await;
    stage.clock.advance(Duration::from_secs(6 * 3_600));
    stage.queue.tend();
    for _ in 0..20 {
        stage.settled().await;
    }
}

#[tokio::test]
async fn a_clock_that_is_set_makes_nothing_old_not_even_after_a_restart() {
    let stage = Stage::new();
    let done = stage.enqueue(request(idempotent(), "1")).await;
    let call = stage.call().await;
    stage.report(&call, answered(201, "kept"));
    let day = Some(Duration::from_secs(86_400));
    let later = Submission { deliver_after: day, ..request(idempotent(), "2") };
    let later = stage.enqueue(later).await;
    stage.queue.pause(None, 0).await.unwrap();
    let patient = QueuedRoute { max_age: Duration::from_secs(86_400), ..idempotent() };
    let waits = stage.enqueue(request(patient, "3")).await;
    half_a_day_with_a_step(&stage).await;
    // What comes now has the time that the machine says.
    let new = stage.enqueue(request(idempotent(), "4")).await;
    let created_ms = stage.view(new).await.created_ms;
    assert_eq!(created_ms, START + 10 * 86_400_000 + 12 * 3_600_000);
    assert_eq!(stage.answer(done).await.unwrap().0, 201);
    assert_eq!(stage.queue.status().oldest_ms, 12 * 3_600_000);
    let stage = stage.kill();
    stage.queue.tend();
    for _ in 0..20 {
        stage.settled().await;
    }
    assert_eq!(stage.answer(done).await.unwrap().0, 201);
    assert_eq!((stage.state(later).await, stage.state(waits).await), (JobState::Waiting, JobState::Waiting));
    assert_eq!(stage.queue.status().oldest_ms, 12 * 3_600_000);
    stage.queue.resume(None, 0).await.unwrap();
    for name in [waits, new] {
        let call = stage.due().await.expect("it is not too old");
        stage.report(&call, answered(201, ""));
        assert_eq!(stage.state(name).await, JobState::Done);
    }
    assert!(stage.due().await.is_none(), "the one for later is not due");
    // Half a day later the first answer's day is over, and the other job is due.
    stage.clock.advance(Duration::from_secs(12 * 3_600 + 61));
    stage.queue.tend();
    for _ in 0..20 {
        stage.settled().await;
    }
    assert_eq!(stage.queue.job(done).await.unwrap(), None);
    let call = stage.due().await.expect("a day has passed");
    stage.report(&call, answered(201, ""));
    assert_eq!(stage.state(later).await, JobState::Done);
}

#[tokio::test]
async fn what_an_operator_has_released_is_sent_after_a_restart_whatever_the_clock_did() {
    let stage = Stage::new();
    let name = stage.enqueue(request(idempotent(), "1")).await;
    let call = stage.call().await;
    stage.report(&call, answered(422, ""));
    stage.settled().await;
    half_a_day_with_a_step(&stage).await;
    stage.queue.pause(None, 0).await.unwrap();
    assert_eq!(stage.queue.retry(queue::Selection::Jobs(vec![name.id]), 0).await.unwrap(), 1);
    let stage = stage.kill();
    stage.queue.resume(None, 0).await.unwrap();
    let call = stage.due().await.expect("it is due since it was released");
    stage.report(&call, answered(201, ""));
    assert_eq!(stage.state(name).await, JobState::Done);
}

#[tokio::test]
async fn what_is_for_later_is_delivered_then_whatever_the_clock_did() {
    const DAY: u64 = 86_400;
    let later = |days| Submission {
        deliver_after: Some(Duration::from_secs(days * DAY)),
        ..request(idempotent(), "1")
    };
    for killed in [false, true] {
        let mut stage = Stage::new();
        let name = stage.enqueue(later(7)).await;
        stage.clock.advance(Duration::from_secs(DAY));
        // Two and a half days forward: less than is left, and more than a job may be old.
        let wall_ms = START + 7 * 43_200_000;
        stage.clock.set_wall(wall_ms);
        stage.queue.tend();
        // And by mistake back by a day and forward again.
        for set_ms in [wall_ms - 86_400_000, wall_ms] {
            stage.clock.set_wall(set_ms);
            stage.queue.tend();
        }
        stage.settled().await;
        let second = stage.enqueue(later(6)).await;
        for _ in 0..5 {
            stage.clock.advance(Duration::from_secs(DAY));
            if killed {
                stage = stage.kill();
            }
            stage.queue.tend();
            assert!(stage.due().await.is_none(), "{killed}");
        }
        stage.clock.advance(Duration::from_secs(DAY));
        stage.queue.tend();
        for name in [name, second] {
            let call = stage.due().await.expect("the time has passed");
            assert_eq!(call.job, name.id);
            stage.report(&call, answered(201, ""));
            assert_eq!(stage.state(name).await, JobState::Done, "{killed}");
        }
    }
}

#[tokio::test]
async fn after_a_clock_was_set_back_what_was_due_goes_first() {
    let stage = Stage::new();
    let dead = stage.enqueue(request(idempotent(), "1")).await;
    let call = stage.call().await;
    stage.report(&call, answered(422, ""));
    stage.settled().await;
    stage.clock.advance(Duration::from_secs(30));
    stage.queue.pause(None, 0).await.unwrap();
    assert_eq!(stage.queue.retry(queue::Selection::Jobs(vec![dead.id]), 0).await.unwrap(), 1);
    let first = stage.enqueue(request(idempotent(), "2")).await;
    let later = Submission { deliver_after: Some(Duration::from_secs(60)), ..request(idempotent(), "3") };
    let later = stage.enqueue(later).await;
    stage.clock.set_wall(START - 6 * 3_600_000);
    stage.queue.tend();
    let second = stage.enqueue(request(idempotent(), "4")).await;
    let stage = stage.kill();
    stage.queue.resume(None, 0).await.unwrap();
    for name in [dead, first, second] {
        let call = stage.due().await.expect("it is due");
        assert_eq!(call.job, name.id);
        stage.report(&call, answered(201, ""));
        stage.settled().await;
    }
    assert!(stage.due().await.is_none());
    stage.clock.advance(Duration::from_secs(60));
    assert_eq!(stage.due().await.expect("a minute has passed").job, later.id);
}

#[tokio::test]
async fn what_was_put_off_elsewhere_goes_by_the_clock_from_here_on() {
    const HOUR: i64 = 3_600_000;
    let elsewhere = Stage::new();
    let days = Some(Duration::from_secs(72 * 3_600));
    elsewhere.enqueue(Submission { deliver_after: days, ..request(idempotent(), "1") }).await;
    let (lines, _) = elsewhere.queue.export(queue::Filter::default(), queue::JobId(0), 9).await.unwrap();
    // This machine's clock was two days ahead, and is right now.
    let stage = Stage::new();
    stage.clock.set_wall(START + 50 * HOUR);
    stage.queue.tend();
    stage.clock.set_wall(START + 2 * HOUR);
    stage.queue.tend();
    assert_eq!(stage.queue.import(lines, 0).await.unwrap().accepted, 1);
    let mut stage = stage;
    for _ in 0..69 {
        stage.clock.advance(Duration::from_secs(3_600));
        stage.queue.tend();
        stage = stage.kill();
        assert!(stage.due().await.is_none());
    }
    stage.clock.advance(Duration::from_secs(3_600));
    stage.queue.tend();
    let call = stage.due().await.expect("the third day has passed, and it is young");
    stage.report(&call, answered(201, ""));
    assert_eq!(stage.ids(&[JobState::Done]).await, [1]);
}

#[tokio::test]
async fn a_clock_that_is_a_little_behind_delivers_nothing_early() {
    let stage = Stage::new();
    let hour = Some(Duration::from_secs(3_600));
    let name = stage.enqueue(Submission { deliver_after: hour, ..request(idempotent(), "1") }).await;
    let stage = stage.kill_at(START - 1_800_000);
    stage.clock.advance(Duration::from_secs(3_590));
    assert!(stage.due().await.is_none());
    stage.clock.advance(Duration::from_secs(11));
    let call = stage.due().await.expect("an hour has passed");
    stage.report(&call, answered(201, ""));
    assert_eq!(stage.state(name).await, JobState::Done);
}

#[tokio::test]
async fn dead_letters_are_kept_for_a_month() {
    let stage = Stage::new();
    let mut names = Vec::new();
    for _ in 0..1_200 {
        names.push(stage.enqueue(request(idempotent(), "1")).await);
    }
    while let Some(call) = stage.due().await {
        stage.report(&call, answered(422, ""));
        stage.settled().await;
    }
    assert_eq!(stage.counters().rejected, 1_200);
    stage.clock.advance(Duration::from_secs(29 * 86_400));
    stage.queue.tend();
    // Its batches follow each other in the journal's line, a link for each time it is settled; the next tick begins
    // nothing while they do.
    for _ in 0..20 {
        stage.settled().await;
    }
    assert_eq!((stage.counters().held_forgotten, stage.state(names[0]).await), (0, JobState::Rejected));
    assert_eq!(stage.queue.status().held.rejected, 1_200);
    stage.clock.advance(Duration::from_secs(2 * 86_400));
    // One tick is enough: each batch is followed by the next.
    stage.queue.tend();
    for _ in 0..20 {
        stage.settled().await;
    }
    assert_eq!(stage.counters().held_forgotten, 1_200);
    assert_eq!(stage.queue.status().held.rejected, 0);
    assert_eq!(stage.queue.job(names[0]).await.unwrap(), None);
}

#[tokio::test]
async fn the_oldest_is_known() {
    let stage = Stage::new();
    stage.enqueue(request(idempotent(), "1")).await;
    let call = stage.call().await;
    stage.clock.advance(Duration::from_secs(5));
    stage.enqueue(request(idempotent(), "2")).await;
    stage.queue.tend();
    assert_eq!((stage.queue.status().oldest_ms, stage.queue.status().depth), (5_000, 2));
    stage.report(&call, answered(200, ""));
    stage.settled().await;
    stage.queue.tend();
    assert_eq!((stage.queue.status().oldest_ms, stage.queue.status().max_depth), (0, 2));
}

#[tokio::test]
async fn the_oldest_counts_from_when_it_was_due() {
    let stage = Stage::new();
    let oldest = async |stage: &Stage| {
        assert!(stage.due().await.is_none());
        stage.queue.tend();
        stage.queue.status().oldest_ms
    };
    let later = Submission { deliver_after: Some(Duration::from_secs(1_000)), ..request(idempotent(), "1") };
    stage.enqueue(later).await;
    stage.clock.advance(Duration::from_secs(999));
    assert_eq!(oldest(&stage).await, 0, "nobody waits for it yet");
    // Also for a process that finds it.
    let stage = stage.kill();
    assert_eq!(oldest(&stage).await, 0);
    stage.queue.pause(None, 0).await.unwrap();
    stage.clock.advance(Duration::from_secs(11));
    assert_eq!(oldest(&stage).await, 10_000);
    let stage = stage.kill();
    assert_eq!(oldest(&stage).await, 10_000);
    stage.queue.resume(None, 0).await.unwrap();
    let call = stage.call().await;
    stage.report(&call, busy(503, 5));
    stage.settled().await;
    assert_eq!(oldest(&stage).await, 1_010_000, "what was attempted is as old as it is");
}
