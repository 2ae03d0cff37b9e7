//! Runs as Hugging Face folders and GGUF files and back, and what an import refuses.

mod export;
mod faults;
mod gguf;
mod gguf_reader;
mod import;
#[path = "../support/mod.rs"]
mod support;

use mediswift_data::Dataset;
use mediswift_engine::{Shape, Tensor, TokenLayout};
use mediswift_kernels::CsrMatrix;
use mediswift_kernels::Precision;
use mediswift_model::Config;
use mediswift_model::checkpoint::Choice;
use mediswift_model::interchange::hf::{self, Import};
use mediswift_model::pretrain::pretrain;
use mediswift_model::run::{self, LoadedModel};
use mediswift_model::session::Session;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{config, dataset};
use tempfile::TempDir;

/// A folder with a dataset, a trained run `run` and its export `hf`.
struct Exported {
    folder: TempDir,
    data: Arc<Dataset>,
}

impl Exported {
    fn new(sparsity: f64) -> Self {
        Self::of(config(sparsity))
    }

    fn of(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = dataset(folder.path(), 1);
        let run = folder.path().join("run");
        let mut session = Session::start(config.clone(), Arc::clone(&data), &run).unwrap();
        pretrain(&mut session, &mut ()).unwrap();
        let exported =
            hf::export(&run, Choice::default(), &folder.path().join("hf"), Precision::F32, false)
                .unwrap();
        assert_eq!((exported.tensors, exported.step), (2 + 2 * 12 + 2, 12));
        let layers = run::load_model(&run).unwrap().gpt.layer_sparsity(&config.sparsity);
        assert_eq!(exported.masks, layers.iter().filter(|layer| layer.actual > 0.0).count());
        Self { folder, data }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn load(&self, name: &str) -> LoadedModel {
        run::load_model(&self.path(name)).unwrap()
    }

    /// Imports `hf` as the run `out`.
    fn import(&self, out: &str, options: &Import) -> Result<hf::Imported, String> {
        hf::import(&self.path("hf"), &self.path(out), options).map_err(|error| error.to_string())
    }

    /// What an import says that must fail and leave nothing.
    #[track_caller]
    fn refusal(&self) -> String {
        let message = self.import("refused", &Import::default()).unwrap_err();
        assert_eq!(message.lines().count(), 1, "{message}");
        let names = fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name());
        let left: Vec<_> = names.filter(|n| n.to_string_lossy().contains("refused")).collect();
        assert!(left.is_empty(), "{left:?}");
        message
    }

    fn weights(&self) -> Tensors {
        Tensors::read(&self.path("hf/model.safetensors"))
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Map<String, serde_json::Value>)) {
        let path = self.path("hf/config.json");
        let mut fields = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut fields);
        fs::write(&path, json!(fields).to_string()).unwrap();
    }
}

/// Type, shape and bytes of the tensors of a safetensors file.
#[derive(Clone)]
struct Tensors(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView<'_>)| {
            (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        Self(file.tensors().into_iter().map(tensor).collect())
    }

    fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let (dtype, _, bytes) = &self.0[name];
        assert_eq!(*dtype, Dtype::F32, "{name}");
        bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn set_floats(&mut self, name: &str, values: &[f32]) {
        self.0.get_mut(name).unwrap().2 = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    }

    fn rename(&mut self, rename: impl Fn(&str) -> String) {
        self.0 = std::mem::take(&mut self.0).into_iter().map(|(n, t)| (rename(&n), t)).collect();
    }
}

/// The matrix with its zeros.
fn dense(parameter: Tensor<'_>) -> Vec<f32> {
    match parameter.shape {
        Shape::Sparse(pattern) => {
            CsrMatrix::new(pattern.clone(), parameter.values.to_vec()).unwrap().to_dense()
        }
        _ => parameter.values.to_vec(),
    }
}

fn parameter<'a>(loaded: &'a LoadedModel, name: &str) -> Tensor<'a> {
    let parameters = loaded.gpt.parameters();
    parameters.get(parameters.find(name).unwrap())
}

fn logits(loaded: &LoadedModel) -> Vec<f32> {
    let ids: Vec<u32> = (0..20).map(|i| i * 13 % 250).collect();
    loaded.gpt.logits(&ids, TokenLayout { sequences: 2, context: 10 }).unwrap()
}

fn set(assignments: &[&str]) -> Import {
    let set = assignments.iter().map(ToString::to_string).collect();
    Import { set, ..Default::default() }
}
