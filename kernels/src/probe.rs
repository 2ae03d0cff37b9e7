//! Probes: what the machine can do at best, measured, so that kernels are judged by fractions of it.
//!
//! All of them run on every thread of the current pool at once and report the sum over threads.

use crate::isa::{Isa, IsaKind, Kernel};
use crate::{AlignedBuffer, LANES};
use mediswift_files::{self as files, SMALL};
use std::sync::OnceLock;
use std::time::Instant;

/// Limits of the machine, over all threads of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Fused multiply-adds from registers, in FLOP/s.
    pub fma_peak: f64,
    /// Reading from L1, in bytes/s.
    pub l1: f64,
    /// Reading from L2, in bytes/s.
    pub l2: f64,
    /// Reading from memory, in bytes/s.
    pub dram: f64,
}

impl Limits {
    /// The higher of two measurements, limit by limit: what got in the way of one may not have got in
    /// the way of the other.
    pub fn highest(self, other: Self) -> Self {
        Self {
            fma_peak: self.fma_peak.max(other.fma_peak),
            l1: self.l1.max(other.l1),
            l2: self.l2.max(other.l2),
            dram: self.dram.max(other.dram),
        }
    }
}

/// Bytes that each thread reads again and again: half of a small L1, a quarter of a small L2.
const L1_BYTES: usize = 16 << 10;
const L2_BYTES: usize = 256 << 10;
/// Bytes over all threads: more than the share of L3 that a few cores have.
const DRAM_BYTES: usize = 512 << 20;

/// Repetitions of a probe; the best counts, because a limit is what nothing got in the way of.
const ROUNDS: usize = 5;

/// Bytes of a core's L1 data cache, as the system tells, or 32 KB where it does not.
pub fn l1_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let of_index = |index: usize| -> Option<usize> {
            let cache = format!("/sys/devices/system/cpu/cpu0/cache/index{index}");
            let read =
                |file: &str| files::read_text(format!("{cache}/{file}").as_ref(), SMALL).ok();
            let is_l1 = read("level")?.trim() == "1" && read("type")?.trim() == "Data";
            let kilobytes = || read("size")?.trim().strip_suffix('K')?.parse::<usize>().ok();
            is_l1.then(kilobytes)?.map(|kilobytes| kilobytes << 10)
        };
        (0..4).find_map(of_index).unwrap_or(32 << 10)
    })
}

/// Whether Intel made the CPU.
pub fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let maker = std::arch::x86_64::__cpuid(0);
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Measures the limits; takes about a second.
pub fn measure(isa: IsaKind) -> Limits {
    let threads = rayon::current_num_threads();
    let read = |bytes: usize, total: usize| {
        let buffer = vec![(); threads].iter().map(|()| AlignedBuffer::zeros(bytes / 4)).collect();
        let buffers: Vec<AlignedBuffer> = buffer;
        let passes = (total / bytes).max(1);
        let seconds = best(|| {
            each_thread(|thread| {
                std::hint::black_box(isa.run(Read { from: &buffers[thread], passes }));
            })
        });
        (threads * bytes * passes) as f64 / seconds
    };
    Limits {
        fma_peak: fma_peak(isa),
        l1: read(L1_BYTES, 1 << 30),
        l2: read(L2_BYTES, 1 << 30),
        dram: read(DRAM_BYTES / threads / 64 * 64, DRAM_BYTES / threads),
    }
}

/// Measures [`Limits::fma_peak`] alone; takes a few hundredths of a second.
pub fn fma_peak(isa: IsaKind) -> f64 {
    // Independent accumulators hide the latency; two registers are left for operands.
    let chains = if isa.registers() >= 32 { 16 } else { 6 };
    let repetitions = 1 << 19;
    let seconds = best(|| {
        each_thread(|_| {
            std::hint::black_box(isa.run(Fma { chains, repetitions }));
        })
    });
    (rayon::current_num_threads() * chains * repetitions * LANES * 2) as f64 / seconds
}

fn each_thread(work: impl Fn(usize) + Sync) {
    rayon::broadcast(|context| work(context.index()));
}

fn best(mut run: impl FnMut()) -> f64 {
    let mut time = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| time()).fold(f64::INFINITY, f64::min)
}

struct Fma {
    chains: usize,
    repetitions: usize,
}

impl Kernel for Fma {
    type Output = f32;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        if self.chains == 16 {
            chains::<I, 16>(isa, self.repetitions)
        } else {
            chains::<I, 6>(isa, self.repetitions)
        }
    }
}

#[inline(always)]
fn chains<I: Isa, const N: usize>(isa: I, repetitions: usize) -> f32 {
    let (a, b) = (isa.splat(0.999), isa.splat(0.001));
    let mut acc = [a; N];
    for acc in &mut acc {
        // Chains that the compiler knows to be equal would become one.
        *acc = isa.splat(std::hint::black_box(1.0));
    }
    for _ in 0..repetitions {
        for acc in &mut acc {
            *acc = isa.fma(*acc, a, b);
        }
    }
    let mut sum = acc[0];
    for acc in &acc[1..] {
        sum = isa.add(sum, *acc);
    }
    isa.sum(sum)
}

struct Read<'a> {
    from: &'a [f32],
    passes: usize,
}

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        // Two lines a cycle, each a maximum of four cycles: fewer than eight chains of 512 bits would be measured
        // in the place of L1. A line of fewer bits is several chains.
        if const { I::REGISTERS >= 32 } {
            read::<I, 16>(isa, self.from, self.passes)
        } else {
            read::<I, 4>(isa, self.from, self.passes)
        }
    }
}

#[inline(always)]
fn read<I: Isa, const N: usize>(isa: I, from: &[f32], passes: usize) -> f32 {
    let mut acc = [isa.splat(0.0); N];
    for _ in 0..passes {
        for lines in from.chunks_exact(N * LANES) {
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the chunk holds N lines.
                let line = unsafe { isa.load(lines.as_ptr().add(i * LANES)) };
                *acc = isa.max(*acc, line);
            }
        }
    }
    let mut most = acc[0];
    for acc in &acc[1..] {
        most = isa.max(most, *acc);
    }
    isa.sum(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_compute_what_they_time() {
        for isa in IsaKind::available() {
            // 0.999 is kept by x ← 0.999 x + 0.001 only at 1.
            let sum = isa.run(Fma { chains: 6, repetitions: 10 });
            assert!((sum - 96.0).abs() < 1e-3, "{isa}: {sum}");
            let mut from = AlignedBuffer::zeros(16 * LANES);
            from[5] = 3.0;
            assert_eq!(isa.run(Read { from: &from, passes: 2 }), 3.0, "{isa}");
        }
    }
}
