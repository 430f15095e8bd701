use super::*;

async fn opened(folder: &Path) -> Records {
    Records::open(&folder.join("control.db")).await.unwrap()
}

#[tokio::test]
async fn a_release_is_found_again_with_its_story() {
    let folder = tempfile::tempdir().unwrap();
    let records = opened(folder.path()).await;
    let first = records.create_release(None, None, "{}".into(), 10).await.unwrap();
    assert_eq!((first.number, first.name.as_str()), (ReleaseNumber(1), "r1"));
    let findings = Findings { switch_ns: Some(7), ..Findings::default() };
    records.transition(first.number, State::Switching, findings, "smoke passed".into(), 20).await.unwrap();
    records.note(first.number, "an instance was slow".into(), Some("{}".into()), 30).await.unwrap();
    drop(records);

    let records = opened(folder.path()).await;
    let found = records.release(ReleaseNumber(1)).await.unwrap().unwrap();
    assert_eq!((found.state, found.state_since_ms, found.switch_ns), (State::Switching, 20, Some(7)));
    let story = records.events(ReleaseNumber(1), 1).await.unwrap();
    assert_eq!(story[1].decision.as_deref(), Some("{}"));
    let story: Vec<_> = story.iter().map(|e| (e.seq, e.state.as_str(), e.text.as_str())).collect();
    assert_eq!(story, [(2, "switching", "smoke passed"), (3, "switching", "an instance was slow")]);
    let second = records.create_release(Some("v2".into()), Some(StampId(1)), "{}".into(), 40).await.unwrap();
    assert_eq!(second.number, ReleaseNumber(2));
    assert_eq!(records.latest(1).await.unwrap(), [second]);
}

#[tokio::test]
async fn an_agent_that_was_overtaken_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let older = opened(folder.path()).await;
    older.create_release(None, None, "{}".into(), 1).await.unwrap();
    let newer = opened(folder.path()).await;
    assert!(newer.fence() > older.fence());
    let refused = older.create_release(None, None, "{}".into(), 2).await;
    assert_eq!(refused, Err(WriteError::Fenced { newest: 2, ours: 1 }));
    assert_eq!(newer.latest(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_an_earlier_version_recorded_is_read_and_nobody_is_told_of_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.db");
    // As version 1 made it.
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
         CREATE TABLE releases (number INTEGER PRIMARY KEY, name TEXT NOT NULL, created_ms INTEGER NOT NULL,
             old INTEGER, request TEXT NOT NULL, release TEXT, state TEXT NOT NULL,
             state_since_ms INTEGER NOT NULL, switch_ns INTEGER, rollback_ns INTEGER);
         CREATE TABLE events (release INTEGER NOT NULL REFERENCES releases (number), seq INTEGER NOT NULL,
             at_ms INTEGER NOT NULL, state TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (release, seq)) WITHOUT ROWID;
         INSERT INTO meta VALUES ('fence', 3);
         INSERT INTO releases VALUES (1, 'one', 5, NULL, '{}', NULL, '{\"v\":1,\"it\":{\"state\":\"done\"}}', 6, 7, NULL);
         INSERT INTO events VALUES (1, 1, 5, 'planned', 'asked for'), (1, 2, 6, 'done', 'serves alone');
         PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(old);

    let records = opened(folder.path()).await;
    assert_eq!(records.fence(), FenceToken(4));
    let found = records.release(ReleaseNumber(1)).await.unwrap().unwrap();
    assert_eq!((found.state, found.switch_ns, found.rehearsal_ns), (State::Done, Some(7), None));
    assert_eq!(records.events(ReleaseNumber(1), 0).await.unwrap().len(), 2);
    assert_eq!(records.untold(10).await.unwrap(), []);

    let second = records.create_release(None, None, "{}".into(), 10).await.unwrap();
    let untold = records.untold(10).await.unwrap();
    assert_eq!(
        untold.iter().map(|event| (event.release, &*event.text)).collect::<Vec<_>>(),
        [(second.number, "asked for")]
    );
    records.told(untold[0].id).await.unwrap();
    assert_eq!(records.untold(10).await.unwrap(), []);
}

#[tokio::test]
async fn a_contracted_schema_and_a_ledger_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let records = opened(folder.path()).await;
    let one = records.create_release(None, None, "{}".into(), 1).await.unwrap().number;
    let db = ComponentName::new("db").unwrap();
    let findings = Findings { contracted: vec![(db.clone(), 2)], ..Findings::default() };
    records.transition(one, State::Done, findings, "contracted".into(), 2).await.unwrap();
    for at_ms in [20, 10, 20] {
        records.add_ledger(one, at_ms, format!("{at_ms}")).await.unwrap();
    }
    assert_eq!(records.ledger(one).await.unwrap(), ["10", "20"]);
    drop(records);
    let contracted = opened(folder.path()).await.contracted().await.unwrap();
    assert_eq!(contracted[&db], Contracted { version: 2, by: one });
}
