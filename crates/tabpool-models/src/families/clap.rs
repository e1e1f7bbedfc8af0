//! CLAP: a tower for texts, which is RoBERTa's encoder, and one for sounds, whose vectors are compared. Models that fuse
//! several parts of a long sound are refused.

mod audio;

use tabpool_graph::{Op, Unary, ValueId};

use super::bert::{Encoder, Kind};
use super::clip::{TEXT_EMBEDS, TEXT_HIDDEN, TEXT_POOLED, both, outputs};
use crate::ModelError;
use crate::blocks::{Build, Built};
use crate::comparison::Learned;
use crate::family::{Family, Source};
use crate::fields::Fields;
use crate::model::Entry;
use crate::signature::{ATTENTION_MASK, Dim, INPUT_FEATURES, InputSpec, Signature};

use audio::Audio;

const LOGITS_PER_AUDIO: &str = "logits_per_audio";
const LOGITS_PER_TEXT: &str = "logits_per_text";
const AUDIO_EMBEDS: &str = "audio_embeds";
const AUDIO_HIDDEN: &str = "audio_last_hidden_state";
const AUDIO_POOLED: &str = "audio_pooler_output";

/// A model of the family.
#[derive(Debug)]
struct Clap {
    text: Encoder,
    audio: Audio,
    projection: usize,
    text_activation: Unary,
    audio_activation: Unary,
}

/// Reads CLAP.
pub(crate) fn read(source: &Source<'_>) -> Result<Box<dyn Family>, ModelError> {
    if source.task.is_some() {
        return Err(source.refuse_task("whole models, ClapModel,"));
    }
    let (text, audio) = (source.config.nested("text_config")?, source.config.nested("audio_config")?);
    Ok(Box::new(Clap {
        text: Encoder::read(&text, Kind::Roberta)?,
        text_activation: text.activation("projection_hidden_act", "relu")?,
        audio_activation: audio.activation("projection_hidden_act", "relu")?,
        audio: Audio::read(&audio, frames(source)?)?,
        projection: source.config.size_or("projection_dim", 1..=1 << 16, 512)?,
    }))
}

/// How many frames a spectrogram has: what the folder's feature extractor makes of its longest sound. Without its
/// description, as many as ten seconds have with the published one.
fn frames(source: &Source<'_>) -> Result<usize, ModelError> {
    let extractor: Option<Fields> = source.file("preprocessor_config.json")?;
    let Some(extractor) = extractor else { return Ok(1001) };
    let samples = extractor.size_or("nb_max_samples", 1..=1 << 26, 480_000)?;
    let hop = extractor.size_or("hop_length", 1..=1 << 16, 480)?;
    Ok(samples / hop + 1)
}

impl Clap {
    /// The vectors that are compared: of length one.
    fn project(&self, b: &mut Build<'_>, name: &str, pooled: ValueId, activation: Unary) -> Built {
        let width = b.width(pooled);
        let x = b.linear(&format!("{name}.linear1"), pooled, [self.projection, width], true)?;
        let x = b.unary(&format!("{name}.activation"), activation, x)?;
        let x = b.linear(&format!("{name}.linear2"), x, [self.projection, self.projection], true)?;
        b.node(name, Op::L2Normalize { epsilon: 1e-12 }, &[x])
    }

    fn text_entry(&self) -> Entry {
        let names = [TEXT_EMBEDS, TEXT_HIDDEN, TEXT_POOLED];
        let mut outputs = outputs(names, Dim::Batch, Dim::Sequence, self.text.hidden, self.projection);
        // What is pooled is not projected yet.
        outputs[2].dims[1] = Dim::Fixed(self.text.hidden);
        Entry { name: "text", signature: Signature::new(self.text.inputs(), outputs), ladder: self.text.ladder() }
    }

    fn audio_entry(&self, rows: Dim) -> Entry {
        let [frames, mels] = [self.audio.frames, self.audio.mels];
        let input = InputSpec::floats(INPUT_FEATURES, &[rows, Dim::Fixed(1), Dim::Fixed(frames), Dim::Fixed(mels)]);
        let [channels, bands, times] = self.audio.output();
        let hidden = [rows, Dim::Fixed(channels), Dim::Fixed(bands), Dim::Fixed(times)];
        let outputs = vec![
            crate::OutputSpec::new(AUDIO_EMBEDS, &[rows, Dim::Fixed(self.projection)]),
            crate::OutputSpec::new(AUDIO_HIDDEN, &hidden),
            crate::OutputSpec::new(AUDIO_POOLED, &[rows, Dim::Fixed(channels)]),
        ];
        Entry { name: "audio", signature: Signature::new(vec![input], outputs), ladder: self.audio.ladder() }
    }

    fn read_text(&self, b: &mut Build<'_>) -> Built {
        let mask = b.input(ATTENTION_MASK)?;
        let mask = b.float(ATTENTION_MASK, mask)?;
        let hidden = self.text.build(b, "text_model.", mask)?;
        b.offer(TEXT_HIDDEN, hidden);
        let first = b.at("text_model.first token", hidden, 0)?;
        let pooled = self.text.pooler(b, "text_model.", first)?;
        b.offer(TEXT_POOLED, pooled);
        let embeds = self.project(b, "text_projection", pooled, self.text_activation)?;
        b.offer(TEXT_EMBEDS, embeds);
        Ok(embeds)
    }

    fn hear(&self, b: &mut Build<'_>) -> Built {
        let (hidden, pooled) = self.audio.build(b)?;
        b.offer(AUDIO_HIDDEN, hidden);
        b.offer(AUDIO_POOLED, pooled);
        let embeds = self.project(b, "audio_projection", pooled, self.audio_activation)?;
        b.offer(AUDIO_EMBEDS, embeds);
        Ok(embeds)
    }
}

impl Family for Clap {
    fn entries(&self) -> Vec<Entry> {
        let text = self.text_entry();
        let logits = [LOGITS_PER_AUDIO, LOGITS_PER_TEXT];
        let whole = both(&text, &self.audio_entry(Dim::Media), logits, self.audio.positions());
        vec![whole, text, self.audio_entry(Dim::Batch)]
    }

    fn build(&self, entry: &str, b: &mut Build<'_>) -> Result<(), ModelError> {
        let text = if entry == "audio" { None } else { Some(self.read_text(b)?) };
        let audio = if entry == "text" { None } else { Some(self.hear(b)?) };
        if let (Some(text), Some(audio)) = (text, audio) {
            let pairs =
                [(LOGITS_PER_TEXT, "logit_scale_t", text, audio), (LOGITS_PER_AUDIO, "logit_scale_a", audio, text)];
            for (name, scale_name, left, right) in pairs {
                let scale = b.weight(scale_name, &[])?;
                let scale = b.unary(scale_name, Unary::Exp, scale)?;
                let logits = b.node(name, Op::MatMul { transpose_b: true }, &[left, right])?;
                let logits = b.mul(name, logits, scale)?;
                b.offer(name, logits);
            }
        }
        Ok(())
    }

    fn learned(&self) -> Option<Learned> {
        Some(Learned { scale: "logit_scale_a", bias: None, exclusive: true })
    }
}
