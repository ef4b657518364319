//! What this machine can do at most, and what this process holds.

use cachalot_kernels::Team;
use std::hint::black_box;
use std::time::Instant;

/// Bytes per second that the team reads from memory: the best of several passes over a buffer larger than caches that
/// a virtual machine usually gets to itself.
pub fn read_bandwidth(team: &Team) -> f64 {
    const WORDS: usize = 1 << 20;
    let parts = 8 * team.threads();
    let buffer: Vec<Vec<u64>> = (0..parts).map(|i| vec![i as u64; WORDS * 4]).collect();
    let bytes = (parts * WORDS * 4 * 8) as f64;
    let pass = || {
        let start = Instant::now();
        team.for_each(parts, |i| {
            // Eight independent sums, so that the adder does not wait for itself.
            let mut sums = [0u64; 8];
            for words in buffer[i].chunks_exact(8) {
                sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
            }
            black_box(sums);
        });
        bytes / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

/// The most bytes this process held in memory, and those it holds now, as the operating system counts them.
pub fn resident() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some((field(&status, "VmHWM:")?, field(&status, "VmRSS:")?))
}

/// Forgets the peak of resident memory and returns what is resident now. `None` where the operating system does not allow
/// it, or keeps no such count.
pub fn restart_peak() -> Option<u64> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    let (peak, now) = resident()?;
    // Where the request was ignored the peak is still an older one.
    (peak.abs_diff(now) < 1 << 20).then_some(now)
}

/// Seconds that this process has had of all processors, in hundredths. `None` where the operating system does not say.
pub fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th after it.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

/// Bytes of memory that programs can still take without swapping.
pub fn available_memory() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The processor's name.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    name.and_then(|line| line.split_once(':')).map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
