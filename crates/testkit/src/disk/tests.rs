//! What may be left of changes when the power goes.

use super::image::SECTOR;
use super::*;
use std::collections::BTreeSet;

/// How an ordinary file is opened, and a new journal.
const PLAIN: OpenHow = OpenHow { create: true, exclusive: false, sync_folder: false };
const JOURNAL: OpenHow = OpenHow { create: true, exclusive: false, sync_folder: true };
const THERE: OpenHow = OpenHow { create: false, exclusive: false, sync_folder: false };

/// So many seeds meet every case that a small example has.
const SEEDS: std::ops::Range<u64> = 0..2_000;

fn filled(byte: u8, sectors: usize) -> Vec<u8> {
    vec![byte; sectors * SECTOR]
}

/// What the images of `changes` after `durable` hold after power cuts.
fn survivors(durable: Vec<u8>, changes: &[Change]) -> BTreeSet<Vec<u8>> {
    let mut image = Image::synced(durable);
    changes.iter().for_each(|change| image.change(change.clone()));
    SEEDS.map(|seed| image.survivor(&mut Dice(seed))).collect()
}

/// The file `name`, if there is one.
fn content(machine: &Machine, name: &str) -> Option<Vec<u8>> {
    let opened = machine.open(Some(name), THERE).ok()?;
    let mut bytes = vec![0; machine.length(&opened).unwrap()];
    machine.read(&opened, 0, &mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn what_is_synced_stays() {
    let mut image = Image::default();
    image.change(Change::Write(0, filled(1, 3)));
    image.change(Change::Resize(700));
    image.change(Change::Write(600, vec![2; 200]));
    image.sync();
    let expected = [vec![1; 600], vec![2; 200]].concat();
    assert_eq!(image.seen, expected);
    assert!(SEEDS.into_iter().all(|seed| image.survivor(&mut Dice(seed)) == expected));
}

#[test]
fn a_write_is_torn_at_sectors() {
    // The write begins and ends within sectors.
    let write = Change::Write(100, vec![2; 3 * SECTOR]);
    let found = survivors(filled(1, 4), &[write]);
    let piece = |sector: usize, new: bool| -> Vec<u8> {
        let bytes = sector * SECTOR..(sector + 1) * SECTOR;
        bytes.map(|at| if new && (100..100 + 3 * SECTOR).contains(&at) { 2 } else { 1 }).collect()
    };
    let every: BTreeSet<Vec<u8>> = (0..16)
        .map(|bits| (0..4).flat_map(|sector| piece(sector, bits >> sector & 1 == 1)).collect())
        .collect();
    assert_eq!(found, every);
}

#[test]
fn a_sector_has_one_of_the_states_that_it_had() {
    let changes = [2, 3, 4].map(|byte| Change::Write(0, filled(byte, 2)));
    let found = survivors(filled(1, 2), &changes);
    let pairs: BTreeSet<_> = found.iter().map(|content| (content[0], content[SECTOR])).collect();
    assert_eq!(pairs.len(), 16, "every state of one with every state of the other");
    for content in &found {
        assert!(
            content
                .chunks(SECTOR)
                .all(|sector| (1..=4).contains(&sector[0]) && sector == vec![sector[0]; SECTOR])
        );
    }
}

#[test]
fn a_file_may_have_grown_without_its_content() {
    let found = survivors(filled(1, 1), &[Change::Write(SECTOR, filled(2, 1))]);
    let ends: Vec<_> = found.iter().map(|content| &content[SECTOR..]).collect();
    assert!(found.iter().all(|content| content[..SECTOR] == filled(1, 1)));
    assert!(ends.iter().any(|end| end.is_empty()));
    assert!(ends.iter().any(|end| **end == filled(2, 1)));
    assert!(ends.iter().any(|end| **end == filled(0, 1)), "zeros");
    assert!(
        ends.iter().any(|end| end.len() == SECTOR && end.windows(2).any(|pair| pair[0] != pair[1])),
        "garbage"
    );
}

#[test]
fn a_shortened_file_may_be_long_and_empty() {
    let found = survivors(filled(1, 2), &[Change::Resize(SECTOR)]);
    let expected = [filled(1, 1), filled(1, 2), [filled(1, 1), filled(0, 1)].concat()];
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn a_new_file_is_there_once_the_folder_was_synced() {
    let written = |how: OpenHow| {
        let machine = Machine::default();
        let mut opened = machine.open(Some("a"), how).unwrap();
        machine.change(&opened, Change::Write(0, vec![7])).unwrap();
        machine.sync(&mut opened).unwrap();
        SEEDS.map(|seed| content(&machine.after_power_cut(seed), "a")).collect::<BTreeSet<_>>()
    };
    assert_eq!(written(PLAIN), BTreeSet::from([None, Some(vec![7])]));
    assert_eq!(written(JOURNAL), BTreeSet::from([Some(vec![7])]));
}

#[test]
fn a_deleted_file_is_gone_once_the_folder_was_synced() {
    let left = |sync_folder| {
        let machine = Machine::default();
        let mut opened = machine.open(Some("a"), JOURNAL).unwrap();
        machine.sync(&mut opened).unwrap();
        machine.delete("a", sync_folder).unwrap();
        assert_eq!(machine.delete("a", true), Err(Failure::Missing));
        SEEDS.map(|seed| content(&machine.after_power_cut(seed), "a").is_some()).collect::<BTreeSet<_>>()
    };
    assert_eq!(left(false), BTreeSet::from([false, true]));
    assert_eq!(left(true), BTreeSet::from([false]));
}

#[test]
fn nothing_works_without_power() {
    let machine = Machine::default();
    let mut opened = machine.open(Some("a"), JOURNAL).unwrap();
    machine.cut_at(3);
    assert_eq!(machine.change(&opened, Change::Write(0, filled(1, 1))), Ok(()));
    assert_eq!(machine.sync(&mut opened), Ok(()));
    assert!(!machine.is_off());
    assert_eq!(machine.change(&opened, Change::Write(0, filled(2, 1))), Err(Failure::Off));
    assert!(machine.is_off());
    assert_eq!(machine.sync(&mut opened), Err(Failure::Off));
    assert_eq!(machine.read(&opened, 0, &mut [0]), Err(Failure::Off));
    assert_eq!(machine.open(Some("a"), THERE).unwrap_err(), Failure::Off);
    assert_eq!(machine.writes(), 3);
    let left: BTreeSet<_> = SEEDS.map(|seed| content(&machine.after_power_cut(seed), "a")).collect();
    // The write at the boundary was under way.
    assert_eq!(left, BTreeSet::from([Some(filled(1, 1)), Some(filled(2, 1))]));
}

#[test]
fn a_disk_that_ignores_syncs_keeps_what_was_synced_before() {
    let machine = Machine::default();
    let mut opened = machine.open(Some("a"), JOURNAL).unwrap();
    machine.change(&opened, Change::Write(0, filled(1, 1))).unwrap();
    machine.sync(&mut opened).unwrap();
    machine.ignore_sync(true);
    machine.change(&opened, Change::Write(0, filled(2, 1))).unwrap();
    assert_eq!(machine.sync(&mut opened), Ok(()));
    let left: BTreeSet<_> = SEEDS.map(|seed| content(&machine.after_power_cut(seed), "a")).collect();
    assert_eq!(left, BTreeSet::from([Some(filled(1, 1)), Some(filled(2, 1))]));
}

#[test]
fn shared_memory_ends_with_its_last_user() {
    use std::sync::atomic::Ordering;
    let machine = Machine::default();
    let (one, two) = (machine.open(Some("a"), PLAIN).unwrap(), machine.open(Some("a"), PLAIN).unwrap());
    assert!(machine.map(&one, 0, 64, false).unwrap().is_none());
    machine.map(&one, 1, 64, true).unwrap().unwrap()[7].store(9, Ordering::Relaxed);
    let seen = |opened| machine.map(opened, 1, 64, true).unwrap().unwrap()[7].load(Ordering::Relaxed);
    assert_eq!(seen(&two), 9);
    machine.unmap(&one);
    assert_eq!(seen(&two), 9);
    machine.close(&two, false);
    assert_eq!(seen(&one), 0);
}

#[test]
fn what_a_failed_sync_was_to_sync_is_lost_unless_it_is_written_again() {
    let machine = Machine::default();
    let mut file = machine.open(Some("f"), JOURNAL).unwrap();
    machine.change(&file, Change::Write(0, filled(1, 1))).unwrap();
    machine.sync(&mut file).unwrap();
    machine.change(&file, Change::Write(0, filled(2, 1))).unwrap();
    machine.fail_sync(true);
    assert_eq!(machine.sync(&mut file), Err(Failure::Unsynced));
    machine.fail_sync(false);
    machine.sync(&mut file).unwrap();
    assert_eq!(content(&machine, "f"), Some(filled(2, 1)), "the running machine sees it");
    assert_eq!(content(&machine.after_power_cut(0), "f"), Some(filled(1, 1)));

    let machine = Machine::default();
    let mut file = machine.open(Some("f"), JOURNAL).unwrap();
    machine.change(&file, Change::Write(0, filled(1, 1))).unwrap();
    machine.fail_sync(true);
    assert_eq!(machine.sync(&mut file), Err(Failure::Unsynced));
    machine.fail_sync(false);
    machine.change(&file, Change::Write(0, filled(2, 1))).unwrap();
    machine.sync(&mut file).unwrap();
    assert_eq!(content(&machine.after_power_cut(0), "f"), Some(filled(2, 1)));
}

#[test]
fn on_a_full_disk_nothing_is_written() {
    let machine = Machine::default();
    let file = machine.open(Some("f"), PLAIN).unwrap();
    machine.change(&file, Change::Write(0, filled(1, 2))).unwrap();
    machine.fill(true);
    assert_eq!(machine.change(&file, Change::Write(SECTOR, filled(2, 1))), Err(Failure::Full));
    assert_eq!(content(&machine, "f"), Some(filled(1, 2)));
    machine.change(&file, Change::Resize(SECTOR)).unwrap();
    machine.fill(false);
    machine.change(&file, Change::Write(SECTOR, filled(3, 1))).unwrap();
    assert_eq!(content(&machine, "f"), Some([filled(1, 1), filled(3, 1)].concat()));
}
