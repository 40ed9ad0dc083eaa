use std::sync::atomic::Ordering;

use super::*;

fn write(file: &dyn StorageFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, &[IoSlice::new(bytes)])
}

#[test]
fn names_come_change_and_go() {
    let memory = Memory::new();
    memory.create("a", 10, Fill::Allocated).unwrap();
    memory.create("b", 20, Fill::Zeroed).unwrap();
    let taken = memory.create("a", 10, Fill::Allocated).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    memory.rename("a", "b").unwrap();
    assert_eq!(memory.list().unwrap(), ["b"]);
    assert_eq!(memory.open("b", Access::Read).unwrap().len().unwrap(), 10);
    memory.remove("b").unwrap();
    let gone = [memory.remove("b"), memory.rename("b", "c"), memory.open("b", Access::Read).map(drop)];
    for answer in gone {
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
    for name in ["", ".", "..", "a/b", "/", "a\0"] {
        let refused = memory.create(name, 1, Fill::Allocated).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
}

#[test]
fn handles_maps_and_clones_see_one_content() {
    let memory = Memory::new();
    let file = memory.create("a", 100, Fill::Allocated).unwrap();
    let map = file.map().unwrap();
    write(&*file, 3, b"later").unwrap();
    assert_eq!(&map[3..8], b"later");
    let mut read = [0; 5];
    let again = memory.clone().open("a", Access::Read).unwrap();
    assert_eq!(again.read_at(3, &mut read).unwrap(), 5);
    assert_eq!(&read, b"later");
    memory.remove("a").unwrap();
    assert_eq!(&map[3..8], b"later");
}

#[test]
fn reads_are_short_at_the_end_only_and_writes_never_grow() {
    let file = MemoryFile::new(20).unwrap();
    file.overwrite(&(0..20).collect::<Vec<u8>>());
    let mut buf = [99; 8];
    assert_eq!(file.read_at(3, &mut buf).unwrap(), 8);
    assert_eq!(buf, [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(file.read_at(17, &mut buf).unwrap(), 3);
    assert_eq!(buf[..3], [17, 18, 19]);
    assert_eq!(file.read_at(20, &mut buf).unwrap(), 0);
    assert_eq!(file.read_at(u64::MAX, &mut buf).unwrap(), 0);
    for (offset, len) in [(13, 8), (20, 1), (21, 0), (u64::MAX, 1)] {
        let refused = write(&file, offset, &vec![0; len]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    write(&file, 12, &[7; 8]).unwrap();
    assert_eq!(file.to_vec()[11..], [11, 7, 7, 7, 7, 7, 7, 7, 7]);
}

#[test]
fn a_handle_for_reading_does_not_write() {
    let memory = Memory::new();
    memory.create("a", 64, Fill::Allocated).unwrap();
    let file = memory.open("a", Access::Read).unwrap();
    assert_eq!(write(&*file, 0, b"x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert!(!file.map_shared().unwrap().is_writable());
}

#[test]
fn shared_words_are_the_files_content() {
    let memory = Memory::new();
    let file = memory.create("ring", 4096, Fill::Zeroed).unwrap();
    let ring = file.map_shared().unwrap();
    ring.store(4088, &7u64.to_ne_bytes());
    let other = memory.open("ring", Access::Read).unwrap();
    assert_eq!(other.map_shared().unwrap().load_word(4088, Ordering::Relaxed), 7);
    let mut read = [0; 8];
    other.read_at(4088, &mut read).unwrap();
    assert_eq!(read, 7u64.to_ne_bytes());
}

#[test]
fn one_holder_of_the_lock() {
    let memory = Memory::new();
    let guard = memory.lock().unwrap();
    assert!(matches!(memory.clone().lock(), Err(LockError::Held { .. })));
    drop(guard);
    drop(memory.lock().unwrap());
    drop(memory.lock().unwrap());
}
