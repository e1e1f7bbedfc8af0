//! What a run is of: which entry point, pictures of which size, which tensors go in and which come out.
//!
//! A reference file holds what goes into every entry point of its model and what comes out of each, so what belongs to
//! another entry point than the one that is run is left alone. What belongs to none is refused.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use tabpool::{Signature, Tensor};
use tabpool_models::{EntryPoint, Model};

use crate::failure::Hinted;

/// A request, checked against the model's folder.
pub(super) struct Request {
    /// The entry point's name.
    pub(super) entry: &'static str,
    /// Height and width of the pictures, where they are not those that the model was made for.
    pub(super) pictures: Option<[usize; 2]>,
    /// What the entry point takes and gives, for pictures of that size.
    pub(super) signature: Signature,
    pub(super) inputs: Vec<(String, Tensor)>,
    pub(super) outputs: Vec<String>,
}

/// What a person asked for.
pub(super) struct Asked<'a> {
    /// The entry point.
    pub(super) entry: Option<&'a str>,
    /// The outputs; none for all.
    pub(super) outputs: &'a [String],
    /// The file the inputs come from, for messages.
    pub(super) input: String,
    /// What the model is called, for messages.
    pub(super) model: &'a str,
}

impl Request {
    /// Finds out what to run, and refuses what would be refused later.
    pub(super) fn of(
        asked: &Asked<'_>,
        model: Model,
        mut inputs: Vec<(String, Tensor)>,
        reference: Option<&BTreeMap<String, Tensor>>,
    ) -> Result<Self> {
        let refused = || format!("{} does not fit {}", asked.input, asked.model);
        let entry = chosen(asked.entry, &model, &inputs).with_context(refused)?;
        if asked.entry.is_some() {
            let of_another = |name: &str| model.entries().any(|other| other.signature().input(name).is_some());
            inputs.retain(|(name, _)| entry.signature().input(name).is_some() || !of_another(name));
        }
        let (name, pictures) = (entry.name(), entry.other_pictures(&inputs));
        let model = match pictures {
            Some([height, width]) => model.for_pictures(height, width).with_context(refused)?,
            None => model,
        };
        let entry = model.entry(name)?;
        let outputs = wanted(asked.outputs, entry.signature());
        if let Some(reference) = reference {
            check_reference(reference, &outputs, &model, entry, !asked.outputs.is_empty())?;
        }
        entry.prepare(&inputs, &outputs).map_err(|error| {
            let error = anyhow::Error::new(error);
            match elsewhere(asked.entry, &model) {
                Some(hint) => Hinted::new(format!("{}: {error:#}", refused()), hint).into(),
                None => error.context(refused()),
            }
        })?;
        let signature = entry.signature().clone();
        Ok(Self { entry: name, pictures, signature, inputs, outputs })
    }
}

/// The entry point asked for; else the one that stands for the model, unless the inputs are those of exactly one other.
fn chosen<'a>(asked: Option<&str>, model: &'a Model, inputs: &[(String, Tensor)]) -> Result<EntryPoint<'a>> {
    if let Some(name) = asked {
        return Ok(model.entry(name)?);
    }
    let names: Vec<&str> = inputs.iter().map(|(name, _)| name.as_str()).collect();
    let first = model.first();
    let fitting: Vec<EntryPoint<'_>> = model.entries().filter(|entry| entry.takes(&names)).collect();
    match fitting[..] {
        // Where nothing fits, what the model itself lacks is the thing to say.
        [] => Ok(first),
        [one] => Ok(one),
        _ if first.takes(&names) => Ok(first),
        _ => {
            let names: Vec<&str> = fitting.iter().map(EntryPoint::name).collect();
            let message = format!("the inputs are those of several entry points: {}", names.join(", "));
            Err(Hinted::new(message, "choose one with --entry").into())
        }
    }
}

/// Where else inputs that do not fit may belong.
fn elsewhere(asked: Option<&str>, model: &Model) -> Option<String> {
    let names: Vec<&str> = model.entries().map(|entry| entry.name()).collect();
    let several = asked.is_none() && names.len() > 1;
    several.then(|| format!("the model's entry points are {}; choose one with --entry", names.join(", ")))
}

/// The outputs asked for, or else all that the network gives; the pooled embedding comes after the network.
fn wanted(asked: &[String], signature: &Signature) -> Vec<String> {
    if !asked.is_empty() {
        return asked.iter().map(|name| name.trim().to_owned()).collect();
    }
    let all = signature.outputs.iter().map(|output| output.name.to_owned());
    all.filter(|name| name != "sentence_embedding").collect()
}

/// A reference is of use only where it has something to compare with, and one for another model is a mistake.
fn check_reference(
    reference: &BTreeMap<String, Tensor>,
    outputs: &[String],
    model: &Model,
    entry: EntryPoint<'_>,
    chosen: bool,
) -> Result<()> {
    let known = |name: &str| model.entries().any(|entry| entry.signature().output(name).is_some());
    if !chosen && let Some(name) = reference.keys().find(|name| !known(name)) {
        let outputs = entry.signature().outputs.iter().map(|output| output.name).collect::<Vec<_>>().join(", ");
        let message = format!("the reference holds {name:?}, which is no output of this model; it has {outputs}");
        return Err(Hinted::new(message, "name those to compare with --outputs").into());
    }
    if !outputs.iter().any(|output| reference.contains_key(output)) {
        let held = reference.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        bail!("the reference holds none of the outputs {}; it has {held}", outputs.join(", "));
    }
    Ok(())
}
