//! What models do with texts, pictures and sounds, on the native worker: against goldens of PyTorch where there are some, and
//! otherwise against what the same models give for tensors that are goldens themselves.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tabpool::{
    Accelerator, ApiKind, Error, Model, Picture, ScoredLabel, Sound, Task, Tensor, Timestamps, TranscribeOptions,
    WorkerSpec,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// An accelerator on a data folder of its own.
struct Scene {
    accelerator: Accelerator,
    _data: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let builder = Accelerator::builder().data_dir(data.path()).metrics_in_memory();
        let worker = WorkerSpec::native().apis(&[ApiKind::Cpu]);
        let accelerator = builder.worker(worker).build().await.expect("a native worker starts");
        Self { accelerator, _data: data }
    }

    async fn model(&self, folder: impl AsRef<Path>) -> Model {
        let folder = fixture("").join(folder).to_string_lossy().into_owned();
        self.accelerator.accelerate_model(&folder).await.unwrap_or_else(|error| panic!("{folder}: {error}"))
    }

    async fn close(self) {
        self.accelerator.close().await.expect("closes");
    }
}

/// A tensor of a fixture's file.
fn golden(file: &str, name: &str) -> Tensor {
    let bytes = std::fs::read(fixture(file)).expect("a fixture");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
    Tensor::from_f32(view.shape(), values).expect("fits")
}

fn picture() -> Picture {
    Picture::decode(&std::fs::read(fixture("preprocessing/image/picture.png")).expect("a fixture")).expect("a picture")
}

fn sound(name: &str) -> Sound {
    Sound::decode(&std::fs::read(fixture("preprocessing/audio").join(name)).expect("a fixture")).expect("a sound")
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance + tolerance * want.abs(), "{what}: {got} at {at} is not {want}");
    }
}

/// One output of an entry point for one input.
async fn run(model: &Model, entry: &str, input: (&str, &Tensor), output: &str) -> Vec<f32> {
    let handle = model.handle().entry(entry).expect("an entry point");
    let inputs = vec![(input.0.to_owned(), input.1.clone())];
    let answer = handle.run_for(inputs, &[output]).await.expect("runs");
    answer.outputs[0].1.to_f32().expect("numbers").into_owned()
}

fn texts(model: &str) -> Vec<String> {
    let json = std::fs::read(fixture(model).join("golden.json")).expect("a fixture");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let texts = json["cases"][0]["texts"].as_array().expect("texts");
    texts.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

/// The scores of all labels, in the labels' order.
fn in_order(mut labels: Vec<ScoredLabel>) -> Vec<f32> {
    labels.sort_by_key(|label| label.index);
    labels.into_iter().map(|label| label.score).collect()
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let powers: Vec<f32> = logits.iter().map(|v| (v - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clip_puts_texts_and_pictures_into_one_space_and_compares_them_as_it_was_trained() {
    let scene = Scene::new().await;
    let model = scene.model("clip").await;
    let texts = texts("clip");
    let embedded = model.embed(&texts).await.expect("embeds");
    let want = golden("clip/golden.safetensors", "output.text_embeds");
    for (row, want) in embedded.iter().zip(want.to_f32().expect("numbers").chunks_exact(32)) {
        assert_close("text", row, want, 1e-4);
    }

    let picture = picture();
    let pixels = model.image_processor().expect("a processor").process(std::slice::from_ref(&picture)).expect("pixels");
    let many = vec![picture.clone(); 5];
    let pictures = model.embed_images(&many).await.expect("embeds");
    assert_eq!((pictures.len(), pictures.dimension()), (5, 32));
    let items: usize = pictures.runs().iter().map(|run| run.items.len()).sum();
    assert_eq!(items, 5, "each picture ran once");
    let want = run(&model, "vision", ("pixel_values", &pixels), "image_embeds").await;
    for row in pictures.iter() {
        assert_close("picture", row, &want, 1e-5);
    }

    // The program of both towers, itself compared with a golden elsewhere, is what the two towers together must give.
    let zero_shot = model.zero_shot(&texts, Some("{}")).await.expect("labels");
    let got = zero_shot.classify_images(&[picture], 3).await.expect("classifies").into_values().remove(0);
    let encoded = model.text_encoder().expect("a tokenizer");
    let encoded = encoded.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>()).expect("encodes");
    let mut inputs = encoded.inputs(model.handle().signature());
    inputs.push(("pixel_values".to_owned(), pixels));
    let whole = model.handle().run_for(inputs, &["logits_per_image"]).await.expect("runs");
    let want = softmax(&whole.outputs[0].1.to_f32().expect("numbers"));
    assert_close("scores", &in_order(got), &want, 1e-4);
    let error = zero_shot.classify_sounds(&[sound("mono_16k.wav")], 1).await.expect_err("it is deaf");
    assert!(matches!(error, Error::Unfit { .. }), "{error:?}");
    assert!(model.zero_shot(&["cat"], Some("a photo")).await.expect_err("no place").hint().is_some());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clap_puts_texts_and_sounds_into_one_space() {
    let scene = Scene::new().await;
    let model = scene.model("clap").await;
    let texts = texts("clap");
    let embedded = model.embed(&texts).await.expect("embeds");
    let want = golden("clap/golden.safetensors", "output.text_embeds");
    for (row, want) in embedded.iter().zip(want.to_f32().expect("numbers").chunks_exact(24)) {
        assert_close("text", row, want, 1e-4);
    }

    let sounds = [sound("mono_48k.wav"), sound("stereo_44k.wav")];
    let heard = model.embed_sounds(&sounds).await.expect("embeds");
    let processor = model.audio_processor().expect("a processor");
    let features = processor.process(&sounds).expect("features").get("input_features").expect("there").clone();
    let want = run(&model, "audio", ("input_features", &features), "audio_embeds").await;
    assert_close("sounds", &heard.iter().flatten().copied().collect::<Vec<_>>(), &want, 1e-5);

    let zero_shot = model.zero_shot(&texts, Some("{}")).await.expect("labels");
    let got = zero_shot.classify_sounds(&sounds, 3).await.expect("classifies").into_values();
    let encoded = model.text_encoder().expect("a tokenizer");
    let encoded = encoded.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>()).expect("encodes");
    let mut inputs = encoded.inputs(model.handle().signature());
    inputs.push(("input_features".to_owned(), features));
    let whole = model.handle().run_for(inputs, &["logits_per_audio"]).await.expect("runs");
    for (got, want) in got.into_iter().zip(whole.outputs[0].1.to_f32().expect("numbers").chunks_exact(3)) {
        assert_close("scores", &in_order(got), &softmax(want), 1e-4);
    }
    let empty = Sound::from_samples(48_000, Vec::new()).expect("a sound");
    let error = model.embed_sounds(&[sounds[0].clone(), empty]).await.expect_err("silence");
    assert!(error.to_string().contains("sound 1 has no samples"), "{error}");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_classified_and_embedded_by_models_without_texts() {
    let scene = Scene::new().await;
    let picture = picture();
    let model = scene.model("vit_classifier").await;
    let pixels = model.image_processor().expect("a processor").process(std::slice::from_ref(&picture)).expect("pixels");
    let labelled = model.classify_images(&[picture.clone(), picture.clone()], 7).await.expect("classifies");
    let want = softmax(&run(&model, "model", ("pixel_values", &pixels), "logits").await);
    for labels in labelled.values() {
        assert!(labels.windows(2).all(|pair| pair[0].score >= pair[1].score), "the likeliest comes first");
        assert_close("scores", &in_order(labels.clone()), &want, 1e-5);
    }
    assert_eq!(
        model.classify_images(std::slice::from_ref(&picture), 2).await.expect("classifies").values()[0].len(),
        2
    );
    let error = model.zero_shot(&["cat"], None).await.expect_err("it reads no texts");
    assert!(error.hint().is_some_and(|hint| hint.contains("CLIP")), "{error}");
    assert!(matches!(model.embed(&["text"]).await, Err(Error::Unfit { .. })));

    let model = scene.model("vit").await;
    let embedded = model.embed_images(std::slice::from_ref(&picture)).await.expect("embeds");
    let want = run(&model, "model", ("pixel_values", &pixels), "pooler_output").await;
    assert_close("pooled", embedded.get(0).expect("one"), &want, 1e-5);
    let error = model.classify_images(&[picture], 1).await.expect_err("it has no classes");
    assert!(error.to_string().contains("has no classes of pictures"), "{error}");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_the_size_that_the_folder_asks_for_take_resampled_positions() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("vit").join(file), folder.path().join(file)).expect("copies");
    }
    let processor = std::fs::read(fixture("vit/preprocessor_config.json")).expect("a fixture");
    let mut processor: serde_json::Value = serde_json::from_slice(&processor).expect("JSON");
    processor["size"] = serde_json::json!({"height": 40, "width": 24});
    std::fs::write(folder.path().join("preprocessor_config.json"), processor.to_string()).expect("written");

    let (model, picture) = (scene.model(folder.path()).await, picture());
    let embedded = model.embed_images(std::slice::from_ref(&picture)).await.expect("embeds");
    let pixels = model.image_processor().expect("a processor").process(&[picture]).expect("pixels");
    assert_eq!(pixels.shape().dims(), [1, 3, 40, 24]);
    let handle = model.handle().for_pictures(40, 24).await.expect("five by three patches");
    let inputs = vec![("pixel_values".to_owned(), pixels)];
    let answer = handle.run_for(inputs, &["pooler_output"]).await.expect("runs");
    assert_close("pooled", embedded.get(0).expect("one"), &answer.outputs[0].1.to_f32().expect("numbers"), 1e-5);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_sound_become_words_with_times_however_long_it_is() {
    let scene = Scene::new().await;
    let model = scene.model("wav2vec2").await;
    let short = sound("mono_16k.wav");
    let options = TranscribeOptions::default();
    let said = model.transcribe(&short, &options).await.expect("transcribes");
    assert!(!said.words.is_empty());
    assert_eq!(said.transcript.text(), said.words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" "));
    let in_time = |words: &[tabpool::Word], seconds: f64| {
        let mut last = 0.0;
        words.iter().all(|word| {
            let fits = last <= word.start_s && word.start_s < word.end_s && word.end_s <= seconds + 0.02;
            last = word.end_s;
            fits
        })
    };
    assert!(in_time(&said.words, short.seconds()), "{:?}", said.words);

    // 65 seconds, so three windows; each run is about one of them.
    let long = Sound::from_samples(16_000, short.samples().repeat(50)).expect("a sound");
    let said = model.transcribe(&long, &options).await.expect("transcribes");
    let mut windows: Vec<_> = said.runs.iter().flat_map(|run| run.items.clone()).collect();
    windows.sort_unstable();
    assert_eq!(windows, [0, 1, 2]);
    assert!(in_time(&said.words, long.seconds()));
    assert!(said.words.last().is_some_and(|word| word.end_s > 60.0), "heard to the end");

    let options = TranscribeOptions { task: Task::Translate, ..options };
    assert!(matches!(model.transcribe(&short, &options).await, Err(Error::Unfit { .. })));
    let options = TranscribeOptions::default();
    let empty = Sound::from_samples(16_000, Vec::new()).expect("a sound");
    assert!(matches!(model.transcribe(&empty, &options).await, Err(Error::Audio(_))));

    let model = scene.model("bert").await;
    assert!(
        model.transcribe(&short, &options).await.expect_err("it reads").hint().is_some_and(|h| h.contains("wav2vec"))
    );
    let model = scene.model("whisper").await;
    let unknown = TranscribeOptions { language: Some("xx".to_owned()), ..options };
    let error = model.transcribe(&short, &unknown).await.expect_err("no such language");
    assert!(error.to_string().contains("knows no language \"xx\""), "{error}");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whisper_writes_windows_down_with_times_in_their_order() {
    let scene = Scene::new().await;
    let model = scene.model("whisper").await;
    // Three windows of the fixture's second.
    let samples = (0..40_000u16).map(|i| (f32::from(i % 400) / 200.0 - 1.0) * f32::from(i % 7919) / 7919.0).collect();
    let sound = Sound::from_samples(16_000, samples).expect("a sound");
    let options = TranscribeOptions::default();
    let heard = model.transcribe(&sound, &options).await.expect("writes");
    assert!(heard.language.is_some(), "it listens for the language first");
    assert_eq!(heard.runs.iter().map(|run| run.items.len()).collect::<Vec<_>>(), [0, 1, 1, 1]);
    let segments = heard.transcript.segments();
    assert!(!segments.is_empty());
    for segment in segments {
        assert!(segment.start_s <= segment.end_s && (0.0..=2.5).contains(&segment.end_s), "{segment:?}");
    }
    assert!(segments.windows(2).all(|pair| pair[0].end_s <= pair[1].start_s + 1e-9), "{segments:?}");
    assert_eq!(segments, model.transcribe(&sound, &options).await.expect("writes").transcript.segments());

    let language = heard.language.clone();
    let omitted = TranscribeOptions { language, timestamps: Timestamps::Omitted, ..TranscribeOptions::default() };
    let plain = model.transcribe(&sound, &omitted).await.expect("writes");
    assert!(plain.transcript.segments().len() <= 3, "a window without times is one segment");
    assert_eq!(plain.runs.len(), 3, "nobody listens for a language that was given");
    scene.close().await;
}

/// A folder of a head's fixture, which has no tokenizer, with one of a few words, and other lines in its configuration.
fn with_words(head: &str, change: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    const WORDS: &str =
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nrain\nis\nover\na\nquiet\nmap\nof\nrivers\nwho\nsings\n";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let from = fixture("heads").join(head);
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copies");
    let config = std::fs::read(from.join("config.json")).expect("a fixture");
    let mut config = serde_json::from_slice(&config).expect("JSON");
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    std::fs::write(folder.path().join("vocab.txt"), WORDS).expect("written");
    folder
}

/// The logits of texts or pairs, one by one.
async fn logits(model: &Model, texts: &[(&str, Option<&str>)]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for (text, pair) in texts {
        let encoder = model.text_encoder().expect("a tokenizer");
        let encoded = match pair {
            Some(pair) => encoder.encode_pairs(&[(text, pair)]),
            None => encoder.encode(&[text]),
        };
        let inputs = encoded.expect("encodes").inputs(model.handle().signature());
        let answer = model.handle().run_for(inputs, &["logits"]).await.expect("runs");
        all.push(answer.outputs[0].1.to_f32().expect("numbers").into_owned());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_classified_by_a_head_and_by_entailment() {
    let scene = Scene::new().await;
    let folder = with_words("bert_sequence", |config| {
        config["id2label"] = serde_json::json!({"0": "contradiction", "1": "neutral", "2": "ENTAILMENT"});
    });
    let model = scene.model(folder.path()).await;
    let texts = ["the rain is over", "who sings", "a quiet map of rivers is over the rain"];
    let got = model.classify_texts(&texts, 3).await.expect("classifies");
    let want = logits(&model, &texts.map(|text| (text, None))).await;
    for (got, want) in got.values().iter().zip(&want) {
        assert_close("classes", &in_order(got.clone()), &softmax(want), 1e-4);
        assert!(got.iter().any(|label| label.label == "ENTAILMENT"));
    }

    let labels = ["rain", "rivers"];
    let zero_shot = model.zero_shot(&labels, Some("the map of {}")).await.expect("labels");
    let got = zero_shot.classify_texts(&texts, 2).await.expect("classifies").into_values();
    for (text, got) in texts.iter().zip(got) {
        let pairs = [(*text, Some("the map of rain")), (*text, Some("the map of rivers"))];
        let entailed: Vec<f32> = logits(&model, &pairs).await.iter().map(|row| row[2]).collect();
        assert_close(text, &in_order(got), &softmax(&entailed), 1e-4);
    }
    assert!(matches!(model.rerank("who", &texts).await, Err(Error::Unfit { .. })), "it tells three classes apart");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_come_in_the_order_of_a_cross_encoders_scores() {
    let scene = Scene::new().await;
    // RoBERTa's fixture has the one label; its tokenizer is put together as BERT's.
    let folder = with_words("roberta_sequence", |config| config["problem_type"] = "regression".into());
    let model = scene.model(folder.path()).await;
    let documents = ["the rain is over", "a map", "who sings of rivers", "", "the quiet"];
    let ranked = model.rerank("who sings", &documents).await.expect("ranks");
    let want = logits(&model, &documents.map(|document| ("who sings", Some(document)))).await;
    assert_eq!(ranked.values().len(), documents.len());
    assert!(ranked.values().windows(2).all(|pair| pair[0].score >= pair[1].score));
    for one in ranked.values() {
        assert_close(documents[one.document], &[one.score], &want[one.document], 1e-4);
    }
    assert!(model.rerank::<&str>("who", &[]).await.expect("nothing to do").values().is_empty());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_compared_with_others() {
    let scene = Scene::new().await;
    let model = scene.model("bert").await;
    let cosines =
        model.similarity(&["rain", "A quiet map."], &["rain", "snow", "A quiet map."]).await.expect("compares");
    assert_eq!(cosines.shape().dims(), [2, 3]);
    let values = cosines.to_f32().expect("numbers");
    assert!((values[0] - 1.0).abs() < 1e-5 && (values[5] - 1.0).abs() < 1e-5, "{values:?}");
    assert!(values[1] < 0.9999 && (values[2] - values[3]).abs() < 1e-5, "{values:?}");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_labelled_found_and_filled_in() {
    let scene = Scene::new().await;
    let folder = with_words("bert_token", |config| {
        config["id2label"] = serde_json::json!({"0": "O", "1": "B-A", "2": "I-A", "3": "B-B", "4": "I-B"});
    });
    let model = scene.model(folder.path()).await;
    let text = "the Rain is over a map";
    let found = model.find_entities(&[text, "who"]).await.expect("finds");
    assert_eq!(found.values().len(), 2);
    let rows = logits(&model, &[(text, None)]).await.remove(0);
    let best = |row: &[f32]| (0..5).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("five");
    let labels: Vec<usize> = rows.chunks(5).skip(1).take(6).map(best).collect();
    for span in &found.values()[0] {
        assert_eq!(text.chars().skip(span.start).take(span.end - span.start).collect::<String>(), span.text);
        let first = text[..span.start].split_whitespace().count();
        let letter = if matches!(labels[first], 1 | 2) { "A" } else { "B" };
        assert_eq!(span.label, letter, "{labels:?}");
    }
    assert_eq!(found.values()[0].is_empty(), labels.iter().all(|label| *label == 0));
    assert!(matches!(model.fill_masks(&[text], 1).await, Err(Error::Unfit { .. })));

    let folder = with_words("bert_answer", |_| {});
    let model = scene.model(folder.path()).await;
    let found = model.answer_questions(&[("who sings", "a quiet map of rivers")]).await.expect("answers");
    let span = &found.values()[0];
    assert!("a quiet map of rivers".contains(&span.text) && !span.text.is_empty() && span.score > 0.0, "{span:?}");
    assert!(matches!(model.find_entities(&[text]).await, Err(Error::Unfit { .. })));

    let folder = with_words("bert_words", |_| {});
    let model = scene.model(folder.path()).await;
    let filled = model.fill_masks(&["the [MASK] is [MASK]", "no mask"], 3).await.expect("fills");
    assert_eq!(filled.values().iter().map(Vec::len).collect::<Vec<_>>(), [2, 0]);
    let rows = logits(&model, &[("the [MASK] is [MASK]", None)]).await.remove(0);
    for (candidates, place) in filled.values()[0].iter().zip([2, 4]) {
        let want = softmax(&rows[place * 120..][..120]);
        assert_eq!(candidates.len(), 3);
        for one in candidates {
            assert_close(&one.label, &[one.score], &[want[one.index]], 1e-4);
        }
        assert!(candidates[0].score >= want.iter().copied().fold(0.0, f32::max) - 1e-5);
    }
    scene.close().await;
}

/// Whoever serves requests spawns them.
#[test]
fn futures_may_be_spawned() {
    fn sent<T: Send>(_: T) {}
    #[expect(dead_code, reason = "that it compiles is the test")]
    fn all(model: &'static Model, pictures: &'static [Picture], sounds: &'static [Sound]) {
        sent(model.embed(&["text"]));
        sent(model.embed_images(pictures));
        sent(model.embed_sounds(sounds));
        sent(model.classify_texts(&["text"], 1));
        sent(model.classify_images(pictures, 1));
        sent(model.rerank("query", &["text"]));
        sent(model.find_entities(&["text"]));
        sent(model.answer_questions(&[("question", "text")]));
        sent(model.fill_masks(&["text"], 1));
        sent(model.zero_shot(&["label"], None));
        sent(async { model.transcribe(&sounds[0], &TranscribeOptions::default()).await });
    }
}
