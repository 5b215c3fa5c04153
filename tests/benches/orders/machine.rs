//! What the figures depend on besides the code: the machine, its disk, and its other users.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde::Serialize;

/// Share of one core above which another process disturbs the measurement.
const DISTURBS: f64 = 0.05;
const LOOK: Duration = Duration::from_secs(2);
const SYNCS: usize = 300;

/// Description of the machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    memory_mb: u64,
    file_system: String,
    fdatasync_p50_us: u64,
    fdatasync_p99_us: u64,
    /// Other processes that used more than 5 % of a core before the start.
    busy: Vec<String>,
}

impl Machine {
    /// Examines the machine and the disk of `folder`.
    ///
    /// # Errors
    /// When other processes use it and `allow_busy` is not set, or when the folder is in memory.
    pub(crate) fn examine(folder: &Path, allow_busy: bool) -> anyhow::Result<Machine> {
        let file_system = file_system(folder)?;
        ensure!(
            !["tmpfs", "ramfs"].contains(&file_system.as_str()),
            "{} is in memory ({file_system}), where a sync costs nothing: choose another --dir",
            folder.display()
        );
        let busy = busy();
        ensure!(
            allow_busy || busy.is_empty(),
            "other processes use the machine: {}; stop them, or pass --allow-busy for figures that are worth less",
            busy.join(", ")
        );
        let (fdatasync_p50_us, fdatasync_p99_us) = fdatasync(folder)?;
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split(':').nth(1))
                .map(|value| value.trim().to_owned())
        };
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let memory_kb: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Ok(Machine {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: thread::available_parallelism()?.get(),
            memory_mb: memory_kb / 1024,
            file_system,
            fdatasync_p50_us,
            fdatasync_p99_us,
            busy,
        })
    }
}

/// The type of the file system that holds the folder.
fn file_system(folder: &Path) -> anyhow::Result<String> {
    let folder = fs::canonicalize(folder).with_context(|| format!("{}", folder.display()))?;
    let mounts = fs::read_to_string("/proc/mounts").context("only Linux says what is mounted where")?;
    let holding = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        folder.starts_with(place).then(|| (place.len(), kind.to_owned()))
    });
    // Of several mounts at the same place the last one counts.
    let (_, kind) = holding
        .max_by_key(|(length, _)| *length)
        .context("no file system holds the folder")?;
    Ok(kind)
}

/// p50 and p99 of overwriting and syncing 8 KiB, in microseconds.
fn fdatasync(folder: &Path) -> anyhow::Result<(u64, u64)> {
    let path = folder.join(format!(".weft-bench-{}", std::process::id()));
    let mut times = Vec::with_capacity(SYNCS);
    {
        let mut file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        for number in 0..SYNCS {
            file.write_all(&[number as u8; 8192])?;
            let began = Instant::now();
            file.sync_data()?;
            times.push(began.elapsed().as_micros() as u64);
        }
    }
    fs::remove_file(&path)?;
    times.sort_unstable();
    Ok((times[SYNCS / 2], times[SYNCS * 99 / 100]))
}

/// Other processes that use the machine: `name (pid): share of a core`.
fn busy() -> Vec<String> {
    let before = ticks();
    let began = Instant::now();
    thread::sleep(LOOK);
    let seconds = began.elapsed().as_secs_f64();
    let mut busy = Vec::new();
    for ((pid, name), now) in ticks() {
        let used = now - before.get(&(pid, name.clone())).copied().unwrap_or(now);
        // A tick is a hundredth of a second on every Linux that matters here.
        let share = used as f64 / 100.0 / seconds;
        if share > DISTURBS && pid != std::process::id() {
            busy.push(format!("{name} ({pid}): {:.0} %", 100.0 * share));
        }
    }
    busy.sort();
    busy
}

/// The processor time of every process, in ticks.
fn ticks() -> HashMap<(u32, String), u64> {
    let mut all = HashMap::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return all;
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name is in parentheses and may contain parentheses.
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else {
            continue;
        };
        let fields: Vec<&str> = stat[close + 1..].split_whitespace().collect();
        let tick = |place: usize| {
            fields
                .get(place)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or(0)
        };
        all.insert((pid, stat[open + 1..close].to_owned()), tick(11) + tick(12));
    }
    all
}
