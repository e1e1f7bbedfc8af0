//! Three models at once on three workers: texts in Chromium, a picture in Firefox, a sound on the native worker.
//!
//!     cargo run --package tabpool --example three_models [TEXT_MODEL PICTURE_MODEL SOUND_MODEL]
//!
//! The models are one that embeds texts, one that classifies pictures and one that transcribes, each a folder or a name in the
//! library. By default they are tiny ones of this repository's tests, with random weights: they load at once, and what they
//! say makes no sense. Where a browser is missing, the native worker stands in.

#![expect(clippy::print_stdout, reason = "a program that shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use tabpool::{
    Accelerator, BrowserKind, Model, ModelKind, Picture, Run, SearchPaths, Sound, Target, TranscribeOptions, discover,
};

const TEXTS: [&str; 3] = ["A man is eating food.", "Someone has a meal.", "The sky is clear tonight."];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let named: Vec<String> = std::env::args().skip(1).collect();
    let names = match &named[..] {
        [] => ["bert", "vit_classifier", "wav2vec2"].map(|name| fixtures.join(name).to_string_lossy().into_owned()),
        [text, picture, sound] => [text.clone(), picture.clone(), sound.clone()],
        _ => return Err("name all three models, or none".into()),
    };
    let picture = Picture::decode(&std::fs::read(fixtures.join("preprocessing/image/picture.png"))?)?;
    let sound = Sound::decode(&std::fs::read(fixtures.join("preprocessing/audio/mono_16k.wav"))?)?;

    let targets = targets()?;
    let builder = Accelerator::builder().metrics_in_memory();
    let accelerator = targets.iter().fold(builder, |builder, target| builder.on(*target)).build().await?;
    let kinds = [ModelKind::Text, ModelKind::Vision, ModelKind::Audio];
    let mut models: Vec<Model> = Vec::new();
    for ((name, kind), target) in names.into_iter().zip(kinds).zip(targets) {
        models.push(accelerator.accelerate_model(name).kind(kind).on(target).await?);
    }
    let [texts, pictures, sounds] = &models[..] else { return Err("three models".into()) };

    let begun = Instant::now();
    let options = TranscribeOptions::default();
    let (embedded, classified, said) = tokio::try_join!(
        timed(texts.embed(&TEXTS)),
        timed(pictures.classify_images(std::slice::from_ref(&picture), 3)),
        timed(sounds.transcribe(&sound, &options)),
    )?;
    let all = begun.elapsed();

    let (embeddings, took) = embedded;
    let cosines = embeddings.similarity()?;
    tell(&accelerator, texts, embeddings.runs(), took);
    println!("    {:?} and {:?}: cosine {:.3}", TEXTS[0], TEXTS[1], cosines.to_f32()?[1]);
    let (classes, took) = classified;
    tell(&accelerator, pictures, classes.runs(), took);
    for class in &classes.values()[0] {
        println!("    {:>5.1} % {}", class.score * 100.0, class.label);
    }
    let (transcription, took) = said;
    tell(&accelerator, sounds, &transcription.runs, took);
    println!("    {:?}", transcription.transcript.text());
    println!("all three together: {} ms", all.as_millis());
    accelerator.close().await?;
    Ok(())
}

/// Chromium, Firefox and the native worker, which also stands in for a browser that is not there.
fn targets() -> Result<[Target; 3], Box<dyn Error>> {
    let found = discover(&SearchPaths::from_env());
    let browser =
        |kind: BrowserKind| if found.of_kind(kind).is_some() { kind.to_string() } else { "native".to_owned() };
    let names = [browser(BrowserKind::Chromium), browser(BrowserKind::Firefox), "native".to_owned()];
    let [texts, pictures, sounds] = names.map(|name| name.parse());
    Ok([texts?, pictures?, sounds?])
}

/// What work gives, and how long it took.
async fn timed<T>(work: impl Future<Output = Result<T, tabpool::Error>>) -> Result<(T, Duration), tabpool::Error> {
    let begun = Instant::now();
    Ok((work.await?, begun.elapsed()))
}

/// Who computed a model's answer and with what, how long that took with the load, and how long on the device alone.
fn tell(accelerator: &Accelerator, model: &Model, runs: &[Run], took: Duration) {
    let workers = accelerator.pool().workers();
    let name = |run: &Run| {
        let worker = workers.iter().find(|worker| worker.id == Some(run.worker));
        worker.map_or_else(|| run.worker.to_string(), |worker| format!("{}:{}", worker.kind, run.api))
    };
    let mut who: Vec<String> = runs.iter().map(name).collect();
    who.dedup();
    let computing: Duration = runs.iter().map(|run| run.timing.compute).sum();
    let (model, who, computing) = (model.handle().name(), who.join(" and "), computing.as_secs_f64() * 1e3);
    println!("{model} on {who}: {} ms, {computing:.1} ms of it computing", took.as_millis());
}
