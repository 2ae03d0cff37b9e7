//! The products of a linear layer.

/// A product of a linear layer with weight W `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Y = W · X: out × tokens, from X.
    Forward,
    /// dX = Wᵀ · dY: in × tokens, from dY.
    InputGradient,
    /// dW = (dY · Xᵀ) at the non-zeros of W, in CSR order.
    WeightGradient,
    /// y = W · x for one token.
    OneToken,
}

impl Product {
    /// The products of a training step, which a [`LayerPlan`](super::LayerPlan) has strategies for, in
    /// the order of its name.
    pub const TRAINING: [Product; 3] =
        [Product::Forward, Product::InputGradient, Product::WeightGradient];

    /// Every product.
    pub const ALL: [Product; 4] =
        [Product::Forward, Product::InputGradient, Product::WeightGradient, Product::OneToken];

    /// Whether it reads W.
    pub(super) fn reads_weight(&self) -> bool {
        *self != Product::WeightGradient
    }

    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Product::Forward => "forward",
            Product::InputGradient => "dx",
            Product::WeightGradient => "dw",
            Product::OneToken => "one-token",
        }
    }
}

/// What the result Y of a product holds before the product is added.
#[derive(Clone, Copy, Debug)]
pub enum Initial<'a> {
    /// Nothing: Y is overwritten.
    Zero,
    /// One value per row, the same for all tokens; Y is overwritten.
    Bias(&'a [f32]),
    /// What it holds: the product is added.
    Held,
}
