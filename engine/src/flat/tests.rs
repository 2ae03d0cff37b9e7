use super::*;
use crate::layout::{ALIGNMENT, BLOCK};
use mediswift_kernels::SparsePattern;
use mediswift_kernels::sparse::mask::uniform_random;
use proptest::prelude::*;

fn sparse(rows: usize, columns: usize, sparsity: f64, seed: u64) -> Shape {
    Shape::Sparse(Arc::new(uniform_random(rows, columns, sparsity, seed).unwrap()))
}

/// Stores whose tensors fill lines, leave some of a line, or hold nothing.
fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let vector = (0usize..40).prop_map(Shape::Vector);
    let matrix = (1usize..9, 1usize..40).prop_map(|(rows, columns)| Shape::Matrix(rows, columns));
    let mask = (1usize..9, 1usize..40, 0.0..1.0, any::<u64>());
    let sparse =
        mask.prop_map(|(rows, columns, sparsity, seed)| sparse(rows, columns, sparsity, seed));
    prop::collection::vec(prop_oneof![vector, matrix, sparse], 0..7)
}

/// A store without a zero in its tensors.
fn store(shapes: Vec<Shape>) -> Flat {
    let tensors = shapes.into_iter().enumerate().map(|(at, shape)| (at.to_string(), shape));
    let mut flat = Flat::zeros(&Layout::new(tensors));
    let mut next = 0.0;
    for (_, values) in flat.iter_mut() {
        values.fill_with(|| {
            next += 1.0;
            next
        });
    }
    flat
}

fn bits(flat: &Flat) -> Vec<u32> {
    flat.range(0..flat.layout().len()).iter().map(|x| x.to_bits()).collect()
}

/// What no tensor owns.
fn assert_gaps_are_zero(flat: &Flat) {
    let all = flat.range(0..flat.layout().len());
    let owned: Vec<usize> = flat.layout().iter().flat_map(|(_, p)| p.range.clone()).collect();
    let mut gaps = all.to_vec();
    owned.iter().for_each(|&at| gaps[at] = 0.0);
    assert!(gaps.iter().all(|&x| x == 0.0));
    assert_eq!(owned.len(), flat.count());
}

proptest! {
    #[test]
    fn tensors_start_at_lines_and_keep_their_values(shapes in shapes()) {
        let flat = store(shapes.clone());
        let mut next = 0.0;
        for ((id, tensor), shape) in flat.iter().zip(&shapes) {
            prop_assert_eq!(tensor.shape, shape);
            prop_assert_eq!(flat.find(tensor.name), Some(id));
            prop_assert_eq!(flat.layout().place(id).range.start % ALIGNMENT, 0);
            prop_assert_eq!(tensor.values.len(), shape.len());
            for &value in tensor.values {
                next += 1.0;
                prop_assert_eq!(value, next);
            }
        }
        prop_assert_eq!(flat.count() as f32, next);
        assert_gaps_are_zero(&flat);
        let tensors = flat.iter().map(|(_, t)| (t.name, t.shape.clone(), t.values));
        let copy = Flat::from_tensors(tensors);
        prop_assert_eq!(copy.layout(), flat.layout());
        prop_assert_eq!(bits(&copy), bits(&flat));
    }

    #[test]
    fn shards_put_together_are_the_whole(shapes in shapes(), ranks in 1usize..9) {
        let flat = store(shapes);
        let mut whole = Flat::zeros(flat.layout());
        let blocks: Vec<_> = flat.layout().blocks().collect();
        let (mut end, mut lens) = (0, Vec::new());
        for range in flat.layout().shards(ranks) {
            prop_assert_eq!(range.start, end);
            end = range.end;
            lens.push(range.len());
            let mut shard = Flat::shard(flat.layout(), std::slice::from_ref(&range));
            prop_assert_eq!(shard.held(), vec![range.clone()]);
            let mut seen = 0;
            for (id, piece) in flat.layout().pieces(range.clone()) {
                let first = flat.layout().place(id).range.start;
                let at = first + piece.start..first + piece.end;
                shard.range_mut(at.clone()).copy_from_slice(flat.range(at.clone()));
                seen += piece.len();
                prop_assert_eq!(&flat[id][piece], shard.range(at));
            }
            prop_assert_eq!(seen, flat.range(range.clone()).iter().filter(|x| **x != 0.0).count());
            prop_assert!(blocks.iter().all(|b| range.end <= b.start || b.end <= range.end));
            whole.whole_mut()[range.clone()].copy_from_slice(shard.range(range));
        }
        prop_assert_eq!((end, lens.len()), (flat.layout().len(), ranks));
        prop_assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= BLOCK);
        prop_assert_eq!(bits(&whole), bits(&flat));
    }

    #[test]
    fn buckets_are_cut_at_tensors_and_hold_what_the_whole_does(
        shapes in shapes(), least in 1usize..300, ranks in 1usize..5,
    ) {
        let flat = store(shapes);
        let layout = flat.layout();
        let buckets = layout.buckets(least);
        let mut cut = Flat::shard(layout, &buckets);
        prop_assert_eq!(buckets.iter().map(Range::len).sum::<usize>(), layout.len());
        prop_assert!(buckets.iter().skip(1).all(|bucket| bucket.len() >= least));
        for bucket in &buckets {
            let parts = layout.shards_of(bucket.clone(), ranks);
            prop_assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert_eq!((parts[0].start, parts[ranks - 1].end), (bucket.start, bucket.end));
        }
        for (id, values) in cut.iter_mut() {
            values.copy_from_slice(&flat[id]);
        }
        for (id, tensor) in flat.iter() {
            prop_assert_eq!(&cut[id], tensor.values);
        }
        // Taken off from the end, and put back.
        let half = layout.len() / 2;
        let mut taken: Vec<_> = std::iter::from_fn(|| cut.take_last(half)).collect();
        prop_assert!(taken.iter().all(|part| part.held()[0].start >= half));
        prop_assert!(cut.held().iter().all(|range| range.start < half));
        taken.drain(..).rev().for_each(|part| cut.put_back(part));
        prop_assert_eq!(cut.held(), buckets);
        prop_assert!(flat.iter().all(|(id, tensor)| cut[id] == *tensor.values));
    }

    #[test]
    fn remapping_carries_over_what_both_masks_have(
        (rows, columns) in (1usize..9, 1usize..40),
        sparsities in (0.0..1.0, 0.0..1.0),
        seeds in any::<(u64, u64)>(),
    ) {
        let from = store(vec![Shape::Vector(5), sparse(rows, columns, sparsities.0, seeds.0)]);
        let tensors = [
            ("1", sparse(rows, columns, sparsities.1, seeds.1)),
            ("new", Shape::Vector(3)),
            ("0", Shape::Vector(5)),
        ];
        let to = Layout::new(tensors);
        let moved = from.remapped(&to);
        assert_gaps_are_zero(&moved);
        let (old, new) = (dense(&from, "1"), dense(&moved, "1"));
        let has = dense(&store(vec![from.get(ParamId(1)).shape.clone()]), "0");
        let (mut kept, Shape::Sparse(mask)) = (0, &to.place(ParamId(0)).shape) else { panic!() };
        for row in 0..rows {
            for column in 0..columns {
                let stays = mask.row(row).contains(&(column as u32));
                let at = row * columns + column;
                prop_assert_eq!(new[at], if stays { old[at] } else { 0.0 });
                kept += usize::from(stays && has[at] != 0.0);
            }
        }
        prop_assert_eq!(&moved[ParamId(1)], &[0.0; 3]);
        prop_assert_eq!(&moved[ParamId(2)], &from[ParamId(0)]);
        // Through a mask that has all, and back: nothing is lost.
        let full = Layout::new([("1", Shape::Matrix(rows, columns)), ("0", Shape::Vector(5))]);
        prop_assert_eq!(bits(&from.remapped(&full).remapped(from.layout())), bits(&from));
        // Back from the other mask: what both have, and zeros.
        let back = moved.remapped(from.layout());
        let zeros = back[ParamId(1)].iter().filter(|x| **x == 0.0).count();
        prop_assert_eq!(back[ParamId(1)].len() - zeros, kept);
    }
}

/// A matrix with its zeros.
fn dense(flat: &Flat, name: &str) -> Vec<f32> {
    let extents = flat.get(flat.find(name).unwrap()).shape.extents();
    let full = Layout::new([(name, Shape::Matrix(extents[0], extents[1]))]);
    flat.remapped(&full)[ParamId(0)].to_vec()
}

#[test]
fn what_is_there_already_stays_where_nothing_is_carried_over() {
    let mut flat = store(vec![Shape::Matrix(2, 3), Shape::Vector(2)]);
    let mask = SparsePattern::new(2, 3, vec![0, 1, 2], vec![2, 0]).unwrap();
    let from = [("0", Shape::Sparse(Arc::new(mask)), vec![-1.0, -2.0])];
    flat.carry_over(&Flat::from_tensors(from));
    assert_eq!(flat[ParamId(0)], [1.0, 2.0, -1.0, -2.0, 5.0, 6.0]);
    assert_eq!(flat[ParamId(1)], [7.0, 8.0]);
}

#[test]
fn several_tensors_change_at_once() {
    let mut flat = store(vec![Shape::Vector(3), Shape::Vector(2), Shape::Vector(1)]);
    let [last, first] = flat.disjoint_mut([ParamId(2), ParamId(0)]);
    first.copy_from_slice(&[0.0, 0.0, last[0]]);
    last[0] = 9.0;
    assert_eq!(
        flat.iter().map(|(_, t)| t.values.to_vec()).collect::<Vec<_>>(),
        [vec![0.0, 0.0, 6.0], vec![4.0, 5.0], vec![9.0]]
    );
}

#[test]
fn elements_of_other_sizes_are_laid_out_alike() {
    let layout = Layout::new([("a", Shape::Vector(3)), ("b", Shape::Matrix(2, 9))]);
    let mut flat = Flat::<u16>::zeros(&layout);
    let b = layout.find("b").unwrap();
    flat[b].fill(7);
    assert_eq!(flat.range(0..layout.len()).iter().filter(|&&x| x == 7).count(), 18);
    assert_eq!((layout.place(b).range.start, layout.len()), (ALIGNMENT, 2 * ALIGNMENT));
}

#[test]
#[should_panic(expected = "tensor 'a' exists already")]
fn names_are_unique() {
    Layout::new([("a", Shape::Vector(1)), ("a", Shape::Vector(2))]);
}

#[test]
#[should_panic(expected = "values and shape of 'a' disagree")]
fn values_fit_their_shape() {
    Flat::from_tensors([("a", Shape::Vector(1), vec![1.0, 2.0])]);
}

#[test]
#[should_panic(expected = "'0' has other extents")]
fn remapping_keeps_extents() {
    let to = Layout::new([("0", Shape::Vector(4))]);
    store(vec![Shape::Vector(3)]).remapped(&to);
}

#[test]
fn shards_of_a_model_are_even() {
    let tensors = [("a", 700 * 64), ("b", 5), ("c", 2_000_003), ("d", 64), ("e", 300_000)];
    let layout = Layout::new(tensors.map(|(name, len)| (name, Shape::Vector(len))));
    for ranks in 1..=8 {
        let lens: Vec<_> = layout.shards(ranks).iter().map(Range::len).collect();
        let even = layout.len() / ranks;
        assert!(lens.iter().all(|len| len.abs_diff(even) <= BLOCK), "{lens:?}");
    }
}
