//! Where each weight is: its file, its shape and dtype there, and the blocks that hold it.
//!
//! A tensor is bound to blocks only where it begins and ends with one, as tabpool's importer cuts files. A folder that
//! somebody else imported with blocks of a fixed size is refused with a hint instead of being read in another way:
//! weights would no longer be shared between models, and workers would need parts of blocks.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use tabpool_content::{Directory, Leaf};
use tabpool_graph::BlockRef;
use tabpool_tensor::DType;

use crate::ModelError;
use crate::fields::{missing_file, option_error, read_json};
use crate::safetensors::{TensorInfo, read_header};

/// How many files the weights of one model may be in.
const MAX_FILES: usize = 4096;

/// The weights of a model's folder, by the names that the files give them.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// The file that a missing tensor is missing from.
    place: String,
    files: Vec<File>,
    tensors: HashMap<String, Place>,
}

#[derive(Debug)]
struct File {
    path: String,
    leaves: Vec<Leaf>,
}

#[derive(Debug)]
struct Place {
    file: usize,
    info: TensorInfo,
}

impl Weights {
    /// Reads the headers of the weight files in a folder of the model: `""`, or a path that ends in `/`.
    pub(crate) fn open(folder: &Directory<'_>, base: &str) -> Result<Self, ModelError> {
        let single = format!("{base}model.safetensors");
        let index = format!("{single}.index.json");
        let mut weights = Self { place: single.clone(), ..Self::default() };
        if folder.contains(&single) || !folder.contains(&index) {
            weights.add_file(folder, &single, "", |_| true)?;
        } else {
            weights.place.clone_from(&index);
            weights.add_index(folder, base, &index)?;
        }
        Ok(weights)
    }

    /// Adds the tensors of a further file, under their names with `prefix` before them.
    pub(crate) fn add(&mut self, folder: &Directory<'_>, file: &str, prefix: &str) -> Result<(), ModelError> {
        self.add_file(folder, file, prefix, |_| true)
    }

    fn add_index(&mut self, folder: &Directory<'_>, base: &str, index: &str) -> Result<(), ModelError> {
        let json = read_json(folder, index)?;
        let wrong = |reason: &str| ModelError::Json { file: index.to_owned(), reason: reason.to_owned() };
        let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(|| wrong("it has no weight_map"))?;
        let mut files = BTreeSet::new();
        for (tensor, file) in map {
            let name = file.as_str().ok_or_else(|| option_error(index, tensor, file, "not the name of a file"))?;
            files.insert(name);
        }
        if files.len() > MAX_FILES {
            return Err(wrong(&format!("it names {} files, more than {MAX_FILES}", files.len())));
        }
        for file in files {
            let here = |name: &str| map.get(name).and_then(Value::as_str) == Some(file);
            self.add_file(folder, &format!("{base}{file}"), "", here)?;
        }
        for (tensor, file) in map {
            if !self.tensors.contains_key(tensor) {
                let file = format!("{base}{}", file.as_str().unwrap_or_default());
                let reason = format!("tensor {tensor:?}, which {index} places there, is not in it");
                return Err(ModelError::Safetensors { file, reason });
            }
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        folder: &Directory<'_>,
        path: &str,
        prefix: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), ModelError> {
        if !folder.contains(path) {
            return Err(missing_file(folder, path));
        }
        let tensors = read_header(folder, path)?;
        let file = self.files.len();
        self.files.push(File { path: path.to_owned(), leaves: folder.leaves(path)? });
        for info in tensors {
            if wanted(&info.name) {
                self.tensors.insert(format!("{prefix}{}", info.name), Place { file, info });
            }
        }
        Ok(())
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// How a tensor is stored, once it is there and has this shape.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<DType, ModelError> {
        let Place { file, info } = self.place(name)?;
        let file = || self.files[*file].path.clone();
        let stored = match info.dtype.as_str() {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            other => {
                return Err(ModelError::DType { file: file(), tensor: name.to_owned(), got: other.to_owned() });
            }
        };
        let equal = info.shape.len() == shape.len() && info.shape.iter().zip(shape).all(|(&a, &b)| a == b as u64);
        if !equal {
            return Err(ModelError::Shape {
                file: file(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                got: info.shape.clone(),
            });
        }
        Ok(stored)
    }

    /// The blocks whose concatenation is a tensor.
    pub(crate) fn blocks(&self, name: &str) -> Result<Vec<BlockRef>, ModelError> {
        let Place { file, info } = self.place(name)?;
        let File { path, leaves } = &self.files[*file];
        let unaligned = || ModelError::Blocks { file: path.clone(), tensor: name.to_owned() };
        let first = leaves.binary_search_by_key(&info.begin, |leaf| leaf.offset).map_err(|_| unaligned())?;
        let mut blocks = Vec::new();
        let mut at = info.begin;
        for leaf in &leaves[first..] {
            if at == info.end {
                break;
            }
            let len = u32::try_from(leaf.len).map_err(|_| unaligned())?;
            blocks.push(BlockRef { cid: leaf.cid.to_bytes().into(), len });
            at += leaf.len;
        }
        if at == info.end { Ok(blocks) } else { Err(unaligned()) }
    }

    /// The file that holds a tensor, and where in it.
    pub(crate) fn find(&self, name: &str) -> Result<(&str, &TensorInfo), ModelError> {
        let Place { file, info } = self.place(name)?;
        Ok((&self.files[*file].path, info))
    }

    fn place(&self, name: &str) -> Result<&Place, ModelError> {
        self.tensors
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor { file: self.place.clone(), tensor: name.to_owned() })
    }
}
