//! Measures rows A1 to A9: `cargo run --release --bin rows -- --help`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use annals_peers::Result;
use annals_peers::device::Device;
use annals_peers::engines::{ENGINES, Engine, named};
use annals_peers::report::Format;
use annals_peers::rows::{Bench, LONG, ROWS, Settings};
use annals_peers::units::Units;
use annals_peers::workload::{Source, Workload};

const HELP: &str = "\
Measures annals beside other event stores and logs, all in one run.

  --rows A1,A2,...     rows to measure (default: all of A1 to A9); A1L is A1 and A2 bound by the disk, give it
                       several times the memory the system keeps dirty with --bytes
  --runs N             runs of each row (default 5)
  --dir DIR            where stores are made and removed, on a disk (default: target/peers)
  --events N           events timed in Buffered rows (default: 1 GiB of payload)
  --bytes N            the same in bytes of payload
  --peers a,b,...      engines beside annals and the floor (default: all; `none` for none)
  --data fixed|scoop   payloads: 256 bytes (default), or scoop.jsonl.zst of the directory ANNALS_DATA names
  --seconds N          length of a Durable run (default 2.5)
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
    let parsed = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(parsed) {
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
        format: Format::Text,
        json: None,
    };
    let mut rest = arguments.iter().filter(|argument| *argument != "--quick");
    while let Some(name) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--rows" => parsed.rows = value.split(',').map(|row| row.trim().to_uppercase()).collect(),
            "--runs" => parsed.settings.runs = value.parse()?,
            "--dir" => parsed.settings.dir = PathBuf::from(value),
            "--events" => parsed.settings.steady = value.parse()?,
            "--bytes" => parsed.bytes = Some(value.parse()?),
            "--peers" => parsed.settings.engines = peers(value)?,
            "--seconds" => parsed.settings.durable_limit = Duration::from_secs_f64(value.parse()?),
            "--data" if value == "fixed" => parsed.source = Source::Fixed,
            "--data" if value == "scoop" => parsed.source = Source::Scoop,
            "--format" if value == "text" => parsed.format = Format::Text,
            "--format" if value == "markdown" => parsed.format = Format::Markdown,
            "--json" => parsed.json = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown: {name} {value}").into()),
        }
    }
    let unknown = parsed.rows.iter().find(|row| !ROWS.contains(&row.as_str()) && *row != LONG);
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

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { rows, mut settings, source, format, json, .. } = arguments;
    std::fs::create_dir_all(&settings.dir)?;
    settings.dir = settings.dir.canonicalize()?;
    let began = Instant::now();
    let open_loop = (settings.open_loop.as_secs_f64() * settings.offered) as usize;
    let needed = if rows.iter().any(|row| row == "A9") { settings.events().max(open_loop) } else { settings.events() };
    let work = Workload::prepare(source, needed, &settings.dir)?;
    let device = Device::under(&settings.dir);
    let units = Units::measure(&settings.dir)?;
    println!("events: {}", work.description);
    println!("machine: {} cores, {}", std::thread::available_parallelism()?, units.line());
    if device.is_none() {
        println!("no device counters under {}: syncs are not counted", settings.dir.display());
    }
    println!("runs: {}, engines in turn\n", settings.runs);
    let bench = Bench { settings, work, device };
    let mut measured = Vec::new();
    for name in &rows {
        for row in bench.row(name)? {
            print!("{}", row.render(format));
            measured.push(row.json());
        }
    }
    println!(
        "took {:.0} s; at the end: {}",
        began.elapsed().as_secs_f64(),
        Units::measure(&bench.settings.dir)?.line()
    );
    if let Some(path) = json {
        let units = format!("{units:?}");
        let document = serde_json::json!({ "events": bench.work.description, "units": units, "rows": measured });
        std::fs::write(path, serde_json::to_string_pretty(&document)?)?;
    }
    Ok(())
}
