//! The engines of a run and what each takes part in.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::annals::{self, Annals};
use crate::floor::FloorLog;
use crate::floor::group::GroupLog;
use crate::floor::scan::Place;
use crate::peer::{Durability, Open};
use crate::peers::fjall::Fjall;
use crate::peers::lmdb::Lmdb;
use crate::peers::okaywal::Okaywal;
use crate::peers::raft_engine::RaftEngine;
use crate::peers::redb::Redb;
use crate::peers::seglog::Seglog;
use crate::peers::sqlite::Sqlite;
use crate::peers::tephra::Tephra;

/// What an engine stands for in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The engine under test.
    Annals,
    /// The same with something left out or done for it; shown, never counted.
    Beside,
    /// The hand-written floor.
    Floor,
    /// Another log without index and checks: it may raise the floor.
    BareLog,
    /// Another event store, paying for index and checks.
    Peer,
}

/// An engine.
#[derive(Clone, Copy)]
pub struct Engine {
    /// As named in `--peers` and in the tables.
    pub name: &'static str,
    /// What it counts as.
    pub kind: Kind,
    /// Whether it has appends that survive a kill of the process without a sync.
    pub buffered: bool,
    /// Whether several threads may append.
    pub many_writers: bool,
    /// Opens it.
    pub open: Open,
    /// Which of its files hold the events.
    pub log_files: &'static (dyn Fn(&str) -> bool + Sync),
    /// Files and places of all events in a directory, for the raw scan of the same bytes.
    pub places: Option<Places>,
}

/// See [`Engine::places`].
pub type Places = fn(&Path) -> Result<(Vec<PathBuf>, Vec<Place>)>;

// By hand: a function behind a reference has nothing to show.
impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({})", self.name)
    }
}

impl Engine {
    /// Whether it can take part at this durability.
    pub fn serves(&self, durability: Durability) -> bool {
        match durability {
            Durability::Buffered => self.buffered,
            Durability::Durable => self.name != "floor-group" && self.name != "annals-ids",
        }
    }

    /// Whether it takes part whatever peers are asked for.
    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Annals | Kind::Beside | Kind::Floor)
    }
}

/// Every file of the directory.
const ALL: &(dyn Fn(&str) -> bool + Sync) = &|_| true;

/// What most engines have in common.
pub(crate) const BASE: Engine = Engine {
    name: "",
    kind: Kind::Peer,
    buffered: true,
    many_writers: true,
    open: |_, _, _| Err("no engine".into()),
    log_files: ALL,
    places: None,
};

const OURS: Engine = Engine { log_files: &annals::holds_events, places: Some(annals::places), ..BASE };

/// All engines, in the order of the tables.
pub static ENGINES: &[Engine] = &[
    Engine { name: "annals", kind: Kind::Annals, open: Annals::open, ..OURS },
    Engine { name: "annals-ids", kind: Kind::Beside, open: Annals::open_with_generated_ids, ..OURS },
    Engine { name: "annals-unprepared", kind: Kind::Beside, open: Annals::open_unprepared, ..OURS },
    Engine { name: "floor", kind: Kind::Floor, many_writers: false, open: FloorLog::open, ..BASE },
    Engine { name: "floor-group", kind: Kind::Floor, buffered: false, open: GroupLog::open, ..BASE },
    Engine { name: "seglog", kind: Kind::BareLog, many_writers: false, open: Seglog::open, ..BASE },
    Engine { name: "okaywal", kind: Kind::BareLog, buffered: false, many_writers: false, open: Okaywal::open, ..BASE },
    Engine { name: "raft-engine", open: RaftEngine::open, ..BASE },
    Engine { name: "tephra", buffered: false, open: Tephra::open, ..BASE },
    Engine { name: "lmdb", open: Lmdb::open, ..BASE },
    Engine { name: "sqlite", open: Sqlite::open, ..BASE },
    Engine { name: "fjall", open: Fjall::open, ..BASE },
    Engine { name: "redb", buffered: false, open: Redb::open, ..BASE },
];

/// The engine of this name.
pub fn named(name: &str) -> Option<&'static Engine> {
    ENGINES.iter().find(|engine| engine.name == name)
}
