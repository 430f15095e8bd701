use super::*;

fn numbers(folder: &Path) -> Writer {
    open(&folder.join("n.db"), 1, |t, _| {
        t.execute_batch("CREATE TABLE IF NOT EXISTS n (n INTEGER PRIMARY KEY, b BLOB)")
    })
    .unwrap()
}

async fn insert(writer: &Writer, n: i64, size: usize) -> Result<(), WriteError> {
    writer
        .write(move |t| {
            t.execute("INSERT INTO n VALUES (?1, zeroblob(?2))", (n, size as i64))?;
            Ok(())
        })
        .await
}

async fn count(writer: &Writer) -> i64 {
    writer.write(|t| Ok(t.query_row("SELECT count(*) FROM n", [], |row| row.get(0))?)).await.unwrap()
}

#[tokio::test]
async fn what_is_acknowledged_is_there_after_the_writer_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let writer = numbers(folder.path());
    let writes: Vec<_> = (0..500)
        .map(|n| {
            let writer = writer.clone();
            tokio::spawn(async move { insert(&writer, n, 10).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    drop(writer);
    assert_eq!(count(&numbers(folder.path())).await, 500);
}

#[tokio::test]
async fn a_refused_write_leaves_its_batch_alone() {
    let folder = tempfile::tempdir().unwrap();
    let writer = numbers(folder.path());
    let (a, b, c) = tokio::join!(insert(&writer, 1, 1), insert(&writer, 1, 1), insert(&writer, 2, 1));
    assert_eq!([a.is_ok(), b.is_ok(), c.is_ok()].iter().filter(|ok| **ok).count(), 2);
    assert_eq!(count(&writer).await, 2);
}

#[tokio::test]
async fn a_full_disk_refuses_and_then_works_again() {
    let folder = tempfile::tempdir().unwrap();
    let writer = numbers(folder.path());
    insert(&writer, 1, 1).await.unwrap();
    let limit = |pages: i64| {
        writer.write(move |t| {
            t.pragma_update(None, "max_page_count", pages)?;
            Ok(())
        })
    };
    limit(4).await.unwrap();
    // Whatever shares the batch of the write that fails is not acknowledged either, or is there.
    let (small, large) = tokio::join!(insert(&writer, 9, 1), insert(&writer, 2, 100_000));
    assert_eq!(large, Err(WriteError::Full));
    let there = if small.is_ok() { 2 } else { 1 };
    assert_eq!(count(&writer).await, there);
    limit(1_000_000).await.unwrap();
    insert(&writer, 3, 100_000).await.unwrap();
    assert_eq!(count(&writer).await, there + 1);
}

#[tokio::test]
async fn the_files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let writer = numbers(folder.path());
    insert(&writer, 1, 1).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
}

#[tokio::test]
async fn a_newer_file_is_refused_by_name_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = open(&path, 1, |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("n.db was written by a newer mainstay"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_panic_of_the_writer_is_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let writer = numbers(folder.path());
    insert(&writer, 1, 1).await.unwrap();
    let panics = writer.write::<(), _>(|t| {
        t.execute("INSERT INTO n VALUES (2, NULL)", [])?;
        panic!("on purpose")
    });
    assert!(matches!(panics.await, Err(WriteError::Broken(_))));
    // The thread says so on its way out, a moment after those who wait have heard.
    while !writer.jobs.is_closed() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(writer.trouble().get(), Some(WriteError::Broken(_))), "{writer:?}");
    assert!(matches!(insert(&writer, 3, 1).await, Err(WriteError::Broken(_))));
    let (told, hear) = oneshot::channel();
    let cost = Cost { bytes: 0, may_fail_halfway: false, may_wait: true, is_new: false };
    writer.submit(cost, |_| Ok(()), move |result| told.send(result).unwrap());
    assert!(matches!(hear.await, Ok(Err(WriteError::Broken(_)))), "nobody is left to wait for");
    drop(writer);
    assert_eq!(count(&numbers(folder.path())).await, 1, "half a batch is none");
}
