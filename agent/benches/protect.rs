//! How long a look at protected paths takes, against the least that it could take on this machine: ratios of one run.
//!
//! `cargo bench -p liftlock-agent --bench protect -- [FILES [MEBIBYTES]]`: 50,000 files of 1,800 MiB if nothing is said.
//! The tree is made in the folder for temporary files (`TMPDIR`) and removed at the end. All of it is in the page cache:
//! a cold one measures the disk.

#![expect(clippy::disallowed_methods, reason = "it measures the machine")]
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_agent::host::Layout;
use liftlock_agent::host::real::RealTrees;
use liftlock_agent::host::trees::{Depth, Kind, Moment, Survey, Tree, Trees};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

/// How many files lie in a folder of the tree.
const IN_A_FOLDER: usize = 100;
/// Each figure is the best of so many.
const RUNS: usize = 5;

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (files, mebibytes) = (numbers.next().unwrap_or(50_000), numbers.next().unwrap_or(1_800));
    let folder = tempfile::Builder::new().prefix("liftlock-bench-").tempdir()?;
    let root = Utf8Path::from_path(folder.path()).context("the temporary folder's name is no UTF-8")?;
    let tree = root.join("tree");
    let paths = fill(&tree, files, mebibytes << 20)?;
    let trees = RealTrees::new(Layout { root: root.to_owned(), state_dir: root.join("state") });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let look = |known: Option<Arc<Tree>>| {
        let survey = Survey { path: tree.clone(), depth: Depth::Whole, leave_out: Vec::new(), known };
        Ok(runtime.block_on(trees.survey(survey))?)
    };

    let (mut first, manifest) = (best(|| look(None))?, look(None)?);
    let seen = manifest.entries().filter(|(_, entry)| matches!(entry.kind, Kind::File { .. })).count();
    anyhow::ensure!(seen == files, "{seen} of {files} files were seen");
    // In turn with the first: what else the machine does disturbs both.
    let mut hashed = Duration::MAX;
    for threads in [1, 2, 4, 8, 16] {
        hashed = hashed.min(best(|| hash_all(&paths, threads))?);
        first = first.min(best(|| look(None))?);
    }
    // As if the tree had not just been made: what was changed in the last two seconds is always read again.
    let known = Arc::new(Tree { began: Moment(i64::MAX, 0), ..manifest });
    let (mut unchanged, mut walked) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        walked = walked.min(best(|| walk(&tree))?);
        unchanged = unchanged.min(best(|| look(Some(Arc::clone(&known))))?);
    }

    let ratio = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
    println!("{files} files, {mebibytes} MiB, best of runs, in the page cache");
    println!(
        "first manifest   {:>8.1?}   best parallel BLAKE3 {:>8.1?}   ratio {:.2} (at most 1.3)",
        first,
        hashed,
        ratio(first, hashed)
    );
    println!(
        "unchanged check  {:>8.1?}   bare stat walk       {:>8.1?}   ratio {:.2} (at most 2)",
        unchanged,
        walked,
        ratio(unchanged, walked)
    );
    Ok(())
}

fn best<T>(mut run: impl FnMut() -> Result<T>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let started = Instant::now();
        run()?;
        best = best.min(started.elapsed());
    }
    Ok(best)
}

/// Files of different sizes that are so many bytes together.
fn fill(tree: &Utf8Path, files: usize, bytes: usize) -> Result<Vec<Utf8PathBuf>> {
    let mean = bytes / files.max(1);
    let mut block = vec![0_u8; 2 * mean + 1];
    let mut state = 1_u32;
    for byte in &mut block {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_le_bytes()[3];
    }
    let mut paths = Vec::with_capacity(files);
    for number in 0..files {
        let folder = tree.join(format!("{}", number / IN_A_FOLDER));
        if number % IN_A_FOLDER == 0 {
            std::fs::create_dir_all(&folder)?;
        }
        let path = folder.join(format!("file-{number}"));
        // Pairs that are two means together.
        let share = mean * (number / 2 % 9 + 1) / 10;
        let size = if number % 2 == 0 { share } else { 2 * mean - share };
        File::create(&path)?.write_all(block.get(..size).context("a block too short")?)?;
        paths.push(path);
    }
    Ok(paths)
}

/// What the check cannot do without: each folder listed, each entry looked at.
fn walk(root: &Utf8Path) -> Result<u64> {
    fn below(folder: &OwnedFd) -> Result<u64> {
        let mut seen = 0;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let status = rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            seen += 1;
            if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
                seen += below(&open(folder, entry.file_name(), OFlags::DIRECTORY)?)?;
            }
        }
        Ok(seen)
    }
    below(&open(rustix::fs::CWD, root.as_str(), OFlags::DIRECTORY)?)
}

fn open(folder: impl AsFd, name: impl rustix::path::Arg, flags: OFlags) -> Result<OwnedFd> {
    Ok(rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// What the first manifest cannot do without: each file opened, read and hashed, on so many threads.
fn hash_all(paths: &[Utf8PathBuf], threads: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut buffer = vec![0; 128 << 10];
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut file = File::open(path)?;
            let mut hasher = blake3::Hasher::new();
            loop {
                let length = file.read(&mut buffer)?;
                match buffer.get(..length) {
                    Some(bytes) if !bytes.is_empty() => hasher.update(bytes),
                    _ => break,
                };
            }
            std::hint::black_box(hasher.finalize());
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a thread ended badly"))?)
    })
}
