//! Measures rows A1 to A9, B1 to B10, C1 to C3 and E1 to E4: `cargo run --release --bin rows -- --help`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use annals_peers::Result;
use annals_peers::device::Device;
use annals_peers::engines::{ENGINES, Engine, named};
use annals_peers::following;
use annals_peers::keeping;
use annals_peers::report::Format;
use annals_peers::rows::{Bench, LONG, ROWS, Settings};
use annals_peers::scale::events::Ids;
use annals_peers::scale::held::Keeper;
use annals_peers::scale::{self, Scale};
use annals_peers::units::Units;
use annals_peers::workload::{Source, Workload};

const HELP: &str = "\
Measures annals beside other event stores and logs, all in one run.

  --rows A1,B2,...     rows to measure, `A`, `B`, `C` and `E` for all of a kind (default: A); A1L is A1 and A2 bound by the disk,
                       give it several times the memory the system keeps dirty with --bytes; E1L and E1S are E1 with ten
                       million events and with scoop, annals alone
  --runs N             runs of each row (default 5)
  --dir DIR            where stores are made and removed, on a disk (default: target/peers)
  --events N           events timed in Buffered rows (default: 1 GiB of payload)
  --bytes N            the same in bytes of payload
  --peers a,b,...      engines beside annals and the floor (default: all; `none` for none)
  --data fixed|scoop   payloads: 256 bytes (default), or scoop.jsonl.zst of the directory ANNALS_DATA names
  --seconds N          length of a Durable run (default 2.5)
  --open-loop N        length of A9 in seconds (default 60)
  --store DIR          where the large stores of B1 to B10 are kept and looked for (default: made in --dir, removed
                       at the end); 16 GB with all peers
  --ids v4|v7          kind of the callers' ids in these stores (default v4)
  --large N            events in the large one (default 10,000,000; a tenth as many streams)
  --format text|markdown
  --json FILE          all figures of all runs
  --quick              everything short: shows that it works, the figures mean little
  --list               the engines and what they take part in
";

struct Arguments {
    rows: Vec<String>,
    settings: Settings,
    source: Source,
    bytes: Option<u64>,
    quick: bool,
    store: Option<PathBuf>,
    ids: Ids,
    large: Option<u32>,
    keepers: Vec<Keeper>,
    format: Format,
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        list();
        return ExitCode::SUCCESS;
    }
    if let Some((first, rest)) = arguments.split_first()
        && first == "--child"
    {
        return ended(scale::child::run(rest));
    }
    let parsed = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    ended(run(parsed))
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for engine in ENGINES {
        println!(
            "{:<14} {:<8} buffered: {:<5} several writers: {}",
            engine.name,
            format!("{:?}", engine.kind),
            engine.buffered,
            engine.many_writers
        );
    }
}

fn parse(arguments: &[String]) -> Result<Arguments> {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let mut parsed = Arguments {
        rows: ROWS.map(str::to_owned).to_vec(),
        settings: settings(quick),
        source: Source::Fixed,
        bytes: None,
        quick,
        store: None,
        ids: Ids::V4,
        large: None,
        keepers: Keeper::ALL.to_vec(),
        format: Format::Text,
        json: None,
    };
    let mut rest = arguments.iter().filter(|argument| *argument != "--quick");
    while let Some(name) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--rows" => parsed.rows = value.split(',').flat_map(|row| named_rows(row.trim())).collect(),
            "--runs" => parsed.settings.runs = value.parse()?,
            "--dir" => parsed.settings.dir = PathBuf::from(value),
            "--events" => parsed.settings.steady = value.parse()?,
            "--bytes" => parsed.bytes = Some(value.parse()?),
            "--peers" => {
                parsed.settings.engines = peers(value)?;
                let asked = |keeper: &Keeper| {
                    *keeper == Keeper::Annals || value.split(',').any(|name| name.trim() == keeper.name())
                };
                parsed.keepers.retain(asked);
            }
            "--store" => parsed.store = Some(PathBuf::from(value)),
            "--ids" if value == "v4" => parsed.ids = Ids::V4,
            "--ids" if value == "v7" => parsed.ids = Ids::V7,
            "--large" => parsed.large = Some(value.parse()?),
            "--open-loop" => parsed.settings.open_loop = Duration::from_secs_f64(value.parse()?),
            "--seconds" => parsed.settings.durable_limit = Duration::from_secs_f64(value.parse()?),
            "--data" if value == "fixed" => parsed.source = Source::Fixed,
            "--data" if value == "scoop" => parsed.source = Source::Scoop,
            "--format" if value == "text" => parsed.format = Format::Text,
            "--format" if value == "markdown" => parsed.format = Format::Markdown,
            "--json" => parsed.json = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown: {name} {value}").into()),
        }
    }
    let others = |row: &str| scale::ROWS.contains(&row) || following::ROWS.contains(&row) || is_kept(row);
    let known = |row: &str| ROWS.contains(&row) || others(row) || row == LONG;
    let unknown = parsed.rows.iter().find(|row| !known(row));
    if let Some(row) = unknown {
        return Err(format!("no row {row}").into());
    }
    let mean = if parsed.source == Source::Scoop { 1273 } else { 256 };
    match parsed.bytes {
        Some(bytes) => parsed.settings.steady = (bytes / mean) as usize,
        None if !quick && parsed.source == Source::Scoop => parsed.settings.steady = (1 << 30) / mean as usize,
        None => {}
    }
    Ok(parsed)
}

fn is_kept(row: &str) -> bool {
    keeping::ROWS.contains(&row) || keeping::LARGE.contains(&row)
}

/// The rows a word of `--rows` stands for.
fn named_rows(word: &str) -> Vec<String> {
    match word.to_uppercase().as_str() {
        "A" => ROWS.map(str::to_owned).to_vec(),
        "B" => scale::ROWS.map(str::to_owned).to_vec(),
        "C" => following::ROWS.map(str::to_owned).to_vec(),
        "E" => keeping::ROWS.map(str::to_owned).to_vec(),
        row => vec![row.to_owned()],
    }
}

fn settings(quick: bool) -> Settings {
    let millis = Duration::from_millis;
    Settings {
        dir: PathBuf::from("target/peers"),
        runs: if quick { 2 } else { 5 },
        warm_up: if quick { 50_000 } else { 400_000 },
        steady: if quick { 200_000 } else { (1 << 30) / 256 },
        buffered_limit: millis(if quick { 500 } else { 3_000 }),
        durable_limit: millis(if quick { 300 } else { 2_500 }),
        scanned: if quick { 100_000 } else { 1_000_000 },
        open_loop: millis(if quick { 2_000 } else { 60_000 }),
        offered: 100_000.0,
        engines: ENGINES.iter().collect(),
    }
}

fn peers(list: &str) -> Result<Vec<&'static Engine>> {
    let named: Vec<_> = match list {
        "none" => Vec::new(),
        list => list
            .split(',')
            .map(|name| named(name.trim()).ok_or_else(|| format!("no engine {name}; see --list")))
            .collect::<Result<_, _>>()?,
    };
    let wanted = |engine: &&'static Engine| engine.is_ours() || named.iter().any(|named| named.name == engine.name);
    Ok(ENGINES.iter().filter(wanted).collect())
}

fn run(mut arguments: Arguments) -> Result<()> {
    let dir = &mut arguments.settings.dir;
    std::fs::create_dir_all(&*dir)?;
    *dir = dir.canonicalize()?;
    let dir = dir.clone();
    let began = Instant::now();
    let units = Units::measure(&dir)?;
    println!("machine: {} cores, {}", std::thread::available_parallelism()?, units.line());
    println!("runs: {}, engines in turn\n", arguments.settings.runs);
    let (large, usual): (Vec<_>, Vec<_>) =
        std::mem::take(&mut arguments.rows).into_iter().partition(|row| scale::ROWS.contains(&row.as_str()));
    let (followed, usual): (Vec<_>, Vec<_>) =
        usual.into_iter().partition(|row| following::ROWS.contains(&row.as_str()));
    let (kept, usual): (Vec<_>, Vec<_>) = usual.into_iter().partition(|row| is_kept(row));
    let (mut measured, mut description, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mut show = |row: &annals_peers::report::Row| {
        print!("{}", row.render(arguments.format));
        measured.push(row.json());
    };
    if !usual.is_empty() {
        let bench = bench(&arguments, &usual)?;
        println!("events: {}\n", bench.work.description);
        for name in &usual {
            bench.row(name)?.iter().for_each(&mut show);
        }
        description.push(bench.work.description);
    }
    let settings = following::Settings::new(dir.clone(), arguments.settings.runs, arguments.quick);
    for name in &followed {
        settings.row(name)?.iter().for_each(&mut show);
    }
    let settings = keeping::Settings::new(dir.clone(), arguments.settings.runs, arguments.quick);
    for name in &kept {
        settings.row(name)?.iter().for_each(&mut show);
    }
    if !large.is_empty() {
        let scale = scale(&arguments, &dir)?;
        println!("large stores: {}\n", scale.description());
        for name in &large {
            match scale.row(name) {
                Ok(rows) => rows.iter().for_each(&mut show),
                // The other rows of a run of an hour are still worth having.
                Err(error) => failed.push(format!("{name}: {error}")),
            }
        }
        description.push(scale.description());
        if arguments.store.is_none() {
            std::fs::remove_dir_all(&scale.settings.stores)?;
        }
    }
    println!("took {:.0} s; at the end: {}", began.elapsed().as_secs_f64(), Units::measure(&dir)?.line());
    if let Some(path) = arguments.json {
        let units = format!("{units:?}");
        let document = serde_json::json!({ "events": description, "units": units, "rows": measured });
        std::fs::write(path, serde_json::to_string_pretty(&document)?)?;
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

fn bench(arguments: &Arguments, rows: &[String]) -> Result<Bench> {
    let settings = arguments.settings.clone();
    let open_loop = (settings.open_loop.as_secs_f64() * settings.offered) as usize;
    let needed = if rows.iter().any(|row| row == "A9") { settings.events().max(open_loop) } else { settings.events() };
    let work = Workload::prepare(arguments.source, needed, &settings.dir)?;
    let device = Device::under(&settings.dir);
    if device.is_none() {
        println!("no device counters under {}: syncs are not counted", settings.dir.display());
    }
    Ok(Bench { settings, work, device })
}

fn scale(arguments: &Arguments, dir: &std::path::Path) -> Result<Scale> {
    let stores = arguments.store.clone().unwrap_or_else(|| dir.join("large"));
    let runs = arguments.settings.runs;
    let mut settings = scale::Settings::new(dir.to_owned(), stores, runs, arguments.quick, arguments.ids);
    if let Some(events) = arguments.large {
        settings.large.events = events;
        settings.large.streams = events / 10;
    }
    settings.keepers = arguments.keepers.clone();
    Scale::prepare(settings)
}
