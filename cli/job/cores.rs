//! How ranks on one machine share its CPUs.

use crate::machine::Place;

/// The CPUs of one of `parts` ranks that may all use the same `places`, which stand in order: neighbours,
/// whole cores as long as there are enough, and as many for each as for the others or one more. None
/// where there are fewer CPUs than ranks: they have to share.
pub fn share(places: &[Place], part: usize, parts: usize) -> Option<Vec<usize>> {
    let same_core = |a: &Place, b: &Place| (a.package, a.core) == (b.package, b.core);
    let cores: Vec<&[Place]> = places.chunk_by(same_core).collect();
    let units = if cores.len() >= parts { cores } else { places.chunks(1).collect() };
    let border = |part: usize| part * units.len() / parts;
    let mine = units[border(part)..border(part + 1)].iter().copied().flatten();
    let mut mine: Vec<usize> = mine.map(|place| place.cpu).collect();
    mine.sort_unstable();
    (units.len() >= parts).then_some(mine)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two packages, each a memory node, of four cores with two threads; the second threads come last,
    /// as Linux counts.
    fn machine() -> Vec<Place> {
        let place = |cpu: usize| {
            let core = cpu % 8;
            Place { node: core / 4, package: core / 4, core: core % 4, cpu }
        };
        let mut places: Vec<Place> = (0..16).map(place).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn ranks_get_neighbouring_cores_each_its_own() {
        let machine = machine();
        assert_eq!(share(&machine, 0, 1), Some((0..16).collect()));
        assert_eq!(share(&machine, 0, 2), Some(vec![0, 1, 2, 3, 8, 9, 10, 11]));
        assert_eq!(share(&machine, 1, 2), Some(vec![4, 5, 6, 7, 12, 13, 14, 15]));
        assert_eq!(share(&machine, 2, 8), Some(vec![2, 10]));
        for parts in 1..=16 {
            let shares = (0..parts).map(|part| share(&machine, part, parts).unwrap());
            let shares: Vec<Vec<usize>> = shares.collect();
            let mut all = shares.concat();
            all.sort_unstable();
            assert_eq!(all, (0..16).collect::<Vec<_>>(), "{parts} ranks");
            let smallest = shares.iter().map(Vec::len).min().unwrap();
            assert!(smallest >= if parts <= 8 { 2 * (8 / parts) } else { 16 / parts });
        }
        assert_eq!(share(&machine, 3, 17), None);
    }
}
