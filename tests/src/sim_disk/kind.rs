//! What an operation is about, by the names and bytes of the format, so that runs can count what they cut.

use std::fmt;

/// An operation of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as the methods they stand for")]
pub enum Call {
    List,
    Open,
    Create,
    Read,
    Write,
    Sync,
    Map,
    Rename,
    Remove,
    SyncDir,
}

/// What is read, written or synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriteKind {
    /// Batches of a segment, or a segment as a whole.
    Batch,
    /// The header of a segment.
    Header,
    /// The end mark of a segment, perhaps with batches before it.
    EndMark,
    /// An index of a segment.
    Index,
    /// A container of a compacted segment.
    Container,
    /// A tier.
    Tier,
    /// A file of the directory of streams.
    Streams,
    /// An index manifest.
    IndexManifest,
    /// A manifest.
    Manifest,
    /// A file of snapshots.
    Snapshots,
    /// The durable mark.
    Mark,
    /// The ring's file.
    Ring,
    /// A name made, changed, removed, or the directory as a whole.
    DirectoryEntry,
    /// A file the format does not know.
    Other,
}

const END_MARK_LEN: usize = 128;
const END_MARK_KIND: u8 = 0xE1;

impl WriteKind {
    pub(super) fn of_file(name: &str) -> Self {
        match name {
            "MARK" => Self::Mark,
            "RING" => Self::Ring,
            _ if name.starts_with("manifest-") => Self::Manifest,
            _ if name.starts_with("tier-") => Self::Tier,
            _ if name.starts_with("streams-") => Self::Streams,
            _ if name.starts_with("INDEX-") => Self::IndexManifest,
            _ if name.starts_with("snapshots-") => Self::Snapshots,
            _ if name.starts_with("segment-") && name.contains(".idx") => Self::Index,
            // Number and generation, of twenty digits each.
            _ if name.starts_with("segment-") && name.as_bytes().get(28) == Some(&b'-') => Self::Container,
            _ if name.starts_with("segment-") => Self::Batch,
            _ => Self::Other,
        }
    }

    pub(super) fn of_write(name: &str, offset: u64, bytes: &[u8]) -> Self {
        match Self::of_file(name) {
            Self::Batch if ends_with_mark(bytes) => Self::EndMark,
            Self::Batch if offset == 0 => Self::Header,
            kind => kind,
        }
    }
}

/// Whether the bytes hold an end mark and nothing but zeros behind it.
fn ends_with_mark(bytes: &[u8]) -> bool {
    let Some(last) = bytes.iter().rposition(|&byte| byte != 0) else {
        return false;
    };
    // The mark's last bytes may be zeros themselves, so it starts within its length before the last other byte.
    let first = (last + 1).saturating_sub(END_MARK_LEN).next_multiple_of(8);
    (first..=last)
        .step_by(8)
        .filter_map(|start| bytes.get(start..start + END_MARK_LEN))
        .any(|mark| mark[4] == END_MARK_KIND && mark[8..12] == (END_MARK_LEN as u32).to_le_bytes())
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for WriteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Batch => "batch",
            Self::Header => "header",
            Self::EndMark => "end mark",
            Self::Index => "index",
            Self::Container => "container",
            Self::Tier => "tier",
            Self::Streams => "streams",
            Self::IndexManifest => "index manifest",
            Self::Manifest => "manifest",
            Self::Snapshots => "snapshots",
            Self::Mark => "mark",
            Self::Ring => "ring",
            Self::DirectoryEntry => "directory entry",
            Self::Other => "other",
        })
    }
}
