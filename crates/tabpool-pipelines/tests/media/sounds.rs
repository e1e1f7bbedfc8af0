//! Sounds: containers, resampling, and the features of every extractor.

use proptest::prelude::{ProptestConfig, any, proptest};
use tabpool_content::{Directory, ImportOptions, MemoryStore, import_folder};
use tabpool_pipelines::audio::{AudioError, AudioProcessor, Sound};
use tabpool_tensor::Tensor;

use crate::golden::{bytes, distance, fixture, json, tensor, tensors};

fn sound(path: &str) -> Sound {
    Sound::decode(&bytes(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn processor(path: &str) -> AudioProcessor {
    let store = MemoryStore::new(1 << 26);
    let root = import_folder(&fixture(path), &store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
    AudioProcessor::read(&Directory::open(&store, &root).expect("opens"), "").unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.to_f32().expect("floats").into_owned()
}

#[test]
fn every_container_has_the_samples_that_libsndfile_sees() {
    let all = tensors("media/sounds/golden.safetensors");
    assert_eq!(all.len(), 7);
    for want in all {
        let got = sound(&format!("media/sounds/{}", want.name));
        assert_eq!(got.rate_hz(), if want.name == "stereo.flac" { 44_100 } else { 16_000 }, "{}", want.name);
        assert_eq!(got.samples().len(), want.values.len(), "{}", want.name);
        // Lossy formats are decoded in floating point, each library in its own order.
        let tolerance = if want.name.ends_with("mp3") || want.name.ends_with("ogg") { 1e-4 } else { 1e-7 };
        let distance = distance(got.samples(), &want.values);
        assert!(distance <= tolerance, "{}: off by {distance}", want.name);
    }
}

#[test]
fn resampling_stays_within_the_goldens_error() {
    let golden = json("preprocessing/audio/golden.json");
    let limit = golden["resampling"]["root_mean_square_error"].as_f64().expect("a number");
    let want = sound("preprocessing/audio/mono_16k.wav");
    for path in ["preprocessing/audio/stereo_44k.wav", "preprocessing/audio/mono_48k.wav"] {
        let got = sound(path).resampled(16_000).expect("resamples");
        assert_eq!(got.samples().len(), want.samples().len(), "{path}");
        let squares = got.samples().iter().zip(want.samples()).map(|(a, b)| f64::from(a - b).powi(2));
        let error = (squares.sum::<f64>() / 20_800.0).sqrt();
        assert!(error < limit / 10.0, "{path}: {error}");
    }
    let up = want.resampled(48_000).expect("resamples");
    let there = sound("preprocessing/audio/mono_48k.wav");
    assert!(distance(up.samples(), there.samples()) < 2e-3);
}

/// A tone of 440 Hz, half a second of it at this rate.
#[expect(clippy::cast_possible_truncation, reason = "samples are f32")]
fn tone(rate: u32) -> Sound {
    let sample = |i: u32| (f64::from(i) * 440.0 / f64::from(rate) * std::f64::consts::TAU).sin() as f32;
    Sound::from_samples(rate, (0..rate / 2).map(sample).collect()).expect("a sound")
}

#[test]
fn every_sample_keeps_its_place_in_time_whatever_the_rates() {
    for (from, to) in
        [(8000, 16_000), (11_025, 16_000), (44_101, 16_000), (96_000, 16_000), (16_000, 48_000), (22_050, 44_100)]
    {
        let (got, want) = (tone(from).resampled(to).expect("resamples"), tone(to));
        let middle = to as usize / 8..to as usize * 3 / 8;
        let distance = distance(&got.samples()[middle.clone()], &want.samples()[middle]);
        assert!(distance < 1e-4, "{from} to {to}: off by {distance}");
        assert_eq!(got.samples().len(), (from as usize / 2 * to as usize).div_ceil(from as usize), "{from} to {to}");
    }
}

#[test]
fn what_lies_above_half_of_the_new_rate_is_gone() {
    // 20 kHz at 192 kHz, down to 16 kHz: without a filter as wide as the reduction it would come out at 4 kHz.
    let tone = (0..96_000u32).map(|i| (f64::from(i) * 20_000.0 / 192_000.0 * std::f64::consts::TAU).sin());
    #[expect(clippy::cast_possible_truncation, reason = "samples are f32")]
    let tone = Sound::from_samples(192_000, tone.map(|v| v as f32).collect()).expect("a sound");
    let got = tone.resampled(16_000).expect("resamples");
    assert_eq!(got.samples().len(), 8000);
    let loudest = got.samples()[500..7500].iter().fold(0.0f32, |m, s| m.max(s.abs()));
    assert!(loudest < 1e-4, "{loudest}");
}

#[test]
fn whispers_features_are_the_goldens() {
    let processor = processor("preprocessing/audio/whisper");
    let inputs = processor.process(&[sound("preprocessing/audio/mono_16k.wav")]).expect("processes");
    let got = inputs.get("input_features").expect("there");
    assert_eq!(got.shape().dims(), [1, 80, 3000]);
    let (got, want) = (floats(got), tensor("preprocessing/audio/golden.safetensors", "output.whisper.input_features"));
    let frames = want.shape[1];
    for band in 0..80 {
        let row = &got[band * 3000..][..3000];
        let distance = distance(&row[..frames], &want.values[band * frames..][..frames]);
        assert!(distance < 1e-4, "band {band}: off by {distance}");
        assert!(row[frames..].iter().all(|v| *v == row[2999]), "band {band} ends in silence");
    }
}

#[test]
fn claps_features_are_the_goldens() {
    let config = json("preprocessing/audio/clap/preprocessor_config.json");
    for (truncation, channels) in [("rand_trunc", 1), ("fusion", 4)] {
        let mut config = config.clone();
        config["truncation"] = truncation.into();
        let processor = AudioProcessor::from_json("x", config.to_string().as_bytes()).expect("good");
        let inputs = processor.process(&[sound("preprocessing/audio/mono_48k.wav")]).expect("processes");
        let got = inputs.get("input_features").expect("there");
        assert_eq!(got.shape().dims(), [1, channels, 301, 64]);
        let name = format!("output.clap_{truncation}.input_features");
        let (got, want) = (floats(got), tensor("preprocessing/audio/golden.safetensors", &name));
        for copy in got.chunks_exact(301 * 64) {
            let distance = distance(copy, &want.values);
            assert!(distance < 0.05, "{name}: off by {distance}");
        }
        let longer = inputs.get("is_longer").expect("there").to_i32().expect("integers").into_owned();
        assert_eq!(longer, [i32::from(truncation == "fusion")]);
    }
}

#[test]
fn a_sound_longer_than_claps_is_cut_or_fused() {
    let config = json("media/sounds/features.json");
    let long = sound("preprocessing/audio/mono_16k.wav");
    assert!(long.seconds() > 1.0);
    let process = |name: &str| {
        let processor = AudioProcessor::from_json("x", config[name].to_string().as_bytes()).expect("good");
        let inputs = processor.process(std::slice::from_ref(&long)).expect("processes");
        assert_eq!(inputs.get("is_longer").expect("there").to_i32().expect("integers")[..], [1]);
        floats(inputs.get("input_features").expect("there"))
    };
    // 16000 of 20800 samples, from the middle: the same as that part alone.
    let part = Sound::from_samples(16_000, long.samples()[2400..18_400].to_vec()).expect("a sound");
    let processor = AudioProcessor::from_json("x", config["clap_repeat"].to_string().as_bytes()).expect("good");
    let alone = processor.process(&[part]).expect("processes");
    assert_eq!(process("clap_repeat"), floats(alone.get("input_features").expect("there")));
    // 105 frames of which 81 fit: parts begin at 4, 12 and 20, and share the frames that they overlap in.
    let fused = process("clap_pad_fusion");
    let [_, front, middle, back] = fused.chunks_exact(81 * 24).collect::<Vec<_>>()[..] else { panic!("four channels") };
    assert_eq!(front[8 * 24..], middle[..73 * 24]);
    assert_eq!(middle[8 * 24..], back[..73 * 24]);
    assert_ne!(front, middle);
}

#[test]
fn wav2vec2s_values_are_the_goldens() {
    let processor = processor("preprocessing/audio/wav2vec2");
    let mono = sound("preprocessing/audio/mono_16k.wav");
    let inputs = processor.process(std::slice::from_ref(&mono)).expect("processes");
    let want = tensor("preprocessing/audio/golden.safetensors", "output.wav2vec2.input_values");
    assert!(distance(&floats(inputs.get("input_values").expect("there")), &want.values) < 1e-5);
    assert!(inputs.get("attention_mask").is_none());
    let mut config = json("preprocessing/audio/wav2vec2/preprocessor_config.json");
    config["return_attention_mask"] = true.into();
    let processor = AudioProcessor::from_json("x", config.to_string().as_bytes()).expect("good");
    let part =
        |from: usize, to: usize| Sound::from_samples(16_000, mono.samples()[from..to].to_vec()).expect("a sound");
    let inputs = processor.process(&[part(2000, 4000), part(3000, 4250)]).expect("processes");
    let want = tensor("preprocessing/audio/golden.safetensors", "output.wav2vec2_batch.input_values");
    assert!(distance(&floats(inputs.get("input_values").expect("there")), &want.values) < 1e-5);
    let want = tensor("preprocessing/audio/golden.safetensors", "output.wav2vec2_batch.attention_mask");
    let mask = inputs.get("attention_mask").expect("asked for").to_i32().expect("integers").into_owned();
    assert!(mask.iter().zip(&want.values).all(|(a, b)| *a == i32::from(*b == 1.0)));
}

#[test]
fn unusual_settings_give_what_the_reference_gives() {
    let configs = json("media/sounds/features.json");
    let half = sound("media/sounds/half.flac");
    let part =
        |from: usize, to: usize| Sound::from_samples(16_000, half.samples()[from..to].to_vec()).expect("a sound");
    let batch = [part(0, 3000), part(2000, 4100)];
    let all = tensors("media/sounds/features.safetensors");
    assert_eq!(all.len(), 7);
    for want in all {
        let (case, name) = want.name.split_once('.').expect("a case and a tensor");
        let processor = AudioProcessor::from_json("x", configs[case].to_string().as_bytes()).expect("good");
        let inputs = processor.process(&batch).expect("processes");
        let got = inputs.get(name).unwrap_or_else(|| panic!("{case} has {name}"));
        let (shape, got) =
            (got.shape().dims().to_vec(), got.to_f32().map_or_else(|_| integers(got), std::borrow::Cow::into_owned));
        // Of Whisper's frames the first 32 are kept, of CLAP's equal channels one.
        let got: Vec<f32> = match (case, shape.as_slice()) {
            ("whisper_128", [_, _, frames]) => got.chunks_exact(*frames).flat_map(|row| &row[..32]).copied().collect(),
            ("clap_pad_fusion", [sounds, channels, _, _]) => {
                got.chunks_exact(got.len() / sounds).flat_map(|c| &c[..c.len() / channels]).copied().collect()
            }
            _ => got,
        };
        let tolerance = if case.starts_with("clap") { 0.05 } else { 1e-5 };
        let distance = distance(&got, &want.values);
        assert!(distance <= tolerance, "{}: off by {distance}", want.name);
    }
}

#[expect(clippy::cast_precision_loss, reason = "masks are small")]
fn integers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_i32().expect("integers").iter().map(|&v| v as f32).collect()
}

#[test]
fn long_sounds_come_in_windows_that_say_how_many_frames_they_hold() {
    let config = br#"{"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 1}"#;
    let processor = AudioProcessor::from_json("x", config).expect("good");
    let long = sound("preprocessing/audio/stereo_44k.wav");
    let windows = processor.windows(&long).expect("cut");
    let got: Vec<_> = windows.iter().map(|w| (w.start_s, w.frames, w.sound.samples().len())).collect();
    assert_eq!(got, [(0.0, 100, 16_000), (1.0, 30, 4800)]);
    let inputs = processor.process(&[windows[1].sound.clone()]).expect("processes");
    assert_eq!(inputs.get("input_features").expect("there").shape().dims(), [1, 80, 100]);
    let wav2vec2 = AudioProcessor::from_json("x", br#"{"feature_extractor_type": "Wav2Vec2FeatureExtractor"}"#);
    assert!(matches!(wav2vec2.expect("good").windows(&long), Err(AudioError::NoWindows)));
    assert!(processor.windows(&Sound::from_samples(16_000, vec![]).expect("empty")).expect("nothing").is_empty());
}

#[test]
fn the_folders_of_model_fixtures_are_read() {
    let half = sound("media/sounds/half.flac");
    let shape = |folder: &str, name: &str| {
        let inputs = processor(folder).process(std::slice::from_ref(&half)).expect("processes");
        inputs.get(name).expect("there").shape().dims().to_vec()
    };
    assert_eq!(shape("whisper", "input_features"), [1, 80, 100]);
    assert_eq!(shape("wav2vec2", "input_values"), [1, 8000]);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let refusal = |config: &str| {
        AudioProcessor::from_json("preprocessor_config.json", config.as_bytes()).expect_err(config).to_string()
    };
    for (class, option, want) in [
        ("Seamless", "", "feature_extractor_type is \"SeamlessFeatureExtractor\", which is not supported"),
        ("Whisper", ", \"dither\": 0.1", "dither is 0.1, which adds noise"),
        ("Whisper", ", \"return_attention_mask\": true", "return_attention_mask is true, which is not supported"),
        ("Whisper", ", \"padding_side\": \"left\"", "padding_side is \"left\", but padding"),
        ("Whisper", ", \"hop_length\": 0", "hop_length is 0, not a whole number from 1"),
        ("Whisper", ", \"n_fft\": 60000, \"chunk_length\": 1", "n_fft is 60000, or hop_length"),
        ("Whisper", ", \"sampling_rate\": 10", "sampling_rate is 10, not from 1000"),
        ("Clap", ", \"truncation\": \"best\"", "truncation is \"best\", neither"),
        ("Clap", ", \"padding\": \"zeros\"", "padding is \"zeros\", none of"),
        ("Clap", ", \"max_length_s\": 1.00001", "max_length_s is 1.00001, not from"),
        ("Clap", ", \"frequency_max\": -3", "frequency_max is -3, not above"),
        ("Wav2Vec2", ", \"feature_size\": 80", "feature_size is 80, where samples"),
        ("Wav2Vec2", ", \"do_normalize\": 1", "do_normalize is 1, neither"),
    ] {
        let got = refusal(&format!("{{\"feature_extractor_type\": \"{class}FeatureExtractor\"{option}}}"));
        let rest = got.strip_prefix("preprocessor_config.json: ");
        assert!(rest.is_some_and(|rest| rest.starts_with(want)), "{got}");
    }
    assert!(refusal("{}").contains("config.json names no model"));
}

#[test]
fn sounds_out_of_bounds_are_refused() {
    // A WAV header that claims four gigabytes of samples, and a few of them.
    let mut wav = bytes("preprocessing/audio/mono_16k.wav");
    wav.truncate(400);
    wav[4..8].copy_from_slice(&0xF000_0024u32.to_le_bytes());
    wav[40..44].copy_from_slice(&0xF000_0000u32.to_le_bytes());
    assert!(matches!(Sound::decode(&wav), Err(AudioError::TooLong { .. })), "{:?}", Sound::decode(&wav));
    assert!(matches!(Sound::from_samples(999, vec![]), Err(AudioError::Rate { rate: 999 })));
    assert!(matches!(Sound::from_samples(16_000, vec![0.0, f32::NAN]), Err(AudioError::NotFinite { at: 1, .. })));
    let processor =
        AudioProcessor::from_json("x", br#"{"feature_extractor_type": "ClapFeatureExtractor"}"#).expect("good");
    assert!(matches!(processor.process(&[]), Err(AudioError::NoSounds)));
    let (full, empty) = (vec![0.5; 9], vec![]);
    let batch = [full, empty].map(|s| Sound::from_samples(48_000, s).expect("a sound"));
    assert!(matches!(processor.process(&batch), Err(AudioError::Empty { position: 1 })));
    assert!(matches!(Sound::decode(b"plain text"), Err(AudioError::Decode { .. })));
    let cut = bytes("preprocessing/audio/mono_16k.wav");
    assert!(matches!(Sound::decode(&cut[..20_000]), Err(AudioError::Decode { .. })), "half a file is no sound");
}

const FILES: [&str; 7] = ["half.flac", "half.ogg", "half.mp3", "pcm_u8.wav", "pcm_24.wav", "float.wav", "stereo.flac"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_sounds_never_panic(which in 0..FILES.len(), at in any::<usize>(), with in any::<u8>(), cut in any::<usize>()) {
        let mut bytes = bytes(&format!("media/sounds/{}", FILES[which]));
        let len = bytes.len();
        // Half of the damage goes to the headers, where it does most.
        let at = if at % 2 == 0 { at % len } else { at % len.min(120) };
        bytes[at] = with;
        let _ = Sound::decode(&bytes);
        bytes.truncate(cut % len);
        let _ = Sound::decode(&bytes);
    }

    #[test]
    fn random_bytes_are_no_sound(bytes in proptest::collection::vec(any::<u8>(), 0..400), which in 0..FILES.len()) {
        let _ = Sound::decode(&bytes);
        let start = crate::golden::bytes(&format!("media/sounds/{}", FILES[which]));
        let _ = Sound::decode(&[&start[..60], &bytes].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn random_configurations_never_panic(
        key in "(n_fft|hop_length|chunk_length|feature_size|sampling_rate|fft_window_size|max_length_s|frequency_min|frequency_max|padding_value)",
        value in "(null|-1|0|1|2|3|1e300|70000|0.5|\"x\"|\\[\\]|true)",
    ) {
        let sound = Sound::from_samples(16_000, vec![0.25; 200]).expect("a sound");
        for class in ["Whisper", "Clap", "Wav2Vec2"] {
            let short = if class == "Whisper" && key != "chunk_length" { ", \"chunk_length\": 1" } else { "" };
            let config = format!("{{\"feature_extractor_type\": \"{class}FeatureExtractor\", \"{key}\": {value}{short}}}");
            if let Ok(processor) = AudioProcessor::from_json("x", config.as_bytes()) {
                let _ = processor.process(std::slice::from_ref(&sound));
            }
        }
    }
}
