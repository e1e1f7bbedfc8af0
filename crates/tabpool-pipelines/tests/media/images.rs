//! Pictures: formats, filters, and every spelling of a configuration.

use proptest::prelude::{ProptestConfig, any, proptest};
use serde_json::json as object;
use tabpool_content::{Directory, ImportOptions, MemoryStore, import_files, import_folder};
use tabpool_pipelines::ConfigError;
use tabpool_pipelines::image::{ImageError, ImageProcessor, Picture};

use crate::golden::{bytes, distance, fixture, json, tensor, tensors};

fn picture() -> Picture {
    Picture::decode(&bytes("preprocessing/image/picture.png")).expect("a good picture")
}

fn values(picture: &Picture) -> Vec<f32> {
    picture.rgb().iter().map(|&v| f32::from(v)).collect()
}

#[test]
fn every_format_has_the_pixels_that_pillow_sees() {
    let want = tensor("preprocessing/image/golden.safetensors", "input.pixels");
    assert_eq!(values(&picture()), want.values);
    let all = tensors("media/pictures/golden.safetensors");
    assert_eq!(all.len(), 15);
    for want in all {
        let picture = Picture::decode(&bytes(&format!("media/pictures/{}", want.name)));
        let picture = picture.unwrap_or_else(|e| panic!("{}: {e}", want.name));
        assert_eq!([picture.height() as usize, picture.width() as usize, 3], want.shape[..], "{}", want.name);
        // Decoders of JPEG may round otherwise; all else is exact.
        let tolerance = if want.name.ends_with(".jpg") { 3.0 } else { 0.0 };
        let distance = distance(&values(&picture), &want.values);
        assert!(distance <= tolerance, "{}: off by {distance}", want.name);
    }
}

#[test]
fn every_processor_of_the_goldens_gives_equal_numbers() {
    for name in ["vit_64", "vit_24x40", "clip_64", "clip_32"] {
        let store = MemoryStore::new(1 << 24);
        let path = fixture(&format!("preprocessing/image/{name}"));
        let root = import_folder(&path, &store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
        let folder = Directory::open(&store, &root).expect("opens");
        let processor = ImageProcessor::read(&folder, "").expect("a good configuration");
        let got = processor.process(&[picture()]).expect("processes");
        let want = tensor("preprocessing/image/golden.safetensors", &format!("output.{name}.pixel_values"));
        assert_eq!(got.shape().dims(), want.shape, "{name}");
        let (height, width) = processor.output_size().expect("fixed");
        assert_eq!([height, width], want.shape[2..], "{name}");
        assert_eq!(distance(&got.to_f32().expect("floats"), &want.values), 0.0, "{name}");
    }
}

#[test]
fn every_filter_of_pillow_gives_equal_pixels() {
    let all = tensors("media/resizing.safetensors");
    assert_eq!(all.len(), 36);
    for want in all {
        let (filter, _) = want.name.split_once('.').expect("a filter and a size");
        let config = object!({
            "image_processor_type": "ViTImageProcessor", "do_rescale": false, "do_normalize": false,
            "size": {"height": want.shape[0], "width": want.shape[1]}, "resample": filter.parse::<u8>().expect("a number"),
        });
        let processor = ImageProcessor::from_json("x.json", config.to_string().as_bytes()).expect("good");
        let got = processor.process(&[picture()]).expect("processes");
        let got = got.to_f32().expect("floats");
        let plane = want.shape[0] * want.shape[1];
        for channel in 0..3 {
            let want_plane: Vec<f32> = want.values.iter().skip(channel).step_by(3).copied().collect();
            assert_eq!(got[channel * plane..][..plane], want_plane, "{}", want.name);
        }
    }
}

#[test]
fn every_spelling_gives_what_the_reference_gives() {
    let configs = json("media/spellings.json");
    let all = tensors("media/spellings.safetensors");
    assert_eq!(all.len(), configs.as_object().expect("cases").len());
    for want in all {
        let config = configs[&want.name].to_string();
        let processor = ImageProcessor::from_json("x.json", config.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        let got = processor.process(&[picture()]).unwrap_or_else(|e| panic!("{}: {e}", want.name));
        assert_eq!(got.shape().dims(), want.shape, "{}", want.name);
        assert_eq!(distance(&got.to_f32().expect("floats"), &want.values), 0.0, "{}", want.name);
    }
}

#[test]
fn a_batch_holds_each_picture_as_alone_and_refuses_mixed_sizes() {
    let config = br#"{"image_processor_type": "CLIPImageProcessor", "size": 9, "do_center_crop": false}"#;
    let processor = ImageProcessor::from_json("x.json", config).expect("good");
    let (a, b) = (picture(), Picture::from_rgb(97, 61, vec![9; 97 * 61 * 3]).expect("fits"));
    let both = processor.process(&[a.clone(), b.clone()]).expect("one size");
    let alone = processor.process(std::slice::from_ref(&b)).expect("one");
    let half = both.shape().dims().iter().product::<usize>() / 2;
    assert_eq!(both.to_f32().expect("floats")[half..], *alone.to_f32().expect("floats"));
    let tall = Picture::from_rgb(2, 3, vec![9; 18]).expect("fits");
    let err = processor.process(&[a, tall]).expect_err("two sizes");
    assert!(matches!(err, ImageError::Sizes { position: 1, width: 9, height: 13, .. }), "{err}");
    assert!(matches!(processor.process(&[]), Err(ImageError::NoPictures)));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let refusal = |config: &str| {
        ImageProcessor::from_json("preprocessor_config.json", config.as_bytes()).expect_err(config).to_string()
    };
    assert!(refusal("{").starts_with("preprocessor_config.json is not readable: "));
    assert_eq!(refusal("[]"), "preprocessor_config.json is not readable: it holds no JSON object");
    let start = "preprocessor_config.json: ";
    for (config, want) in [
        (
            r#"{"image_processor_type": "DonutImageProcessor"}"#,
            "image_processor_type is \"DonutImageProcessor\", which is not",
        ),
        (r#"{}"#, "image_processor_type is null, and config.json names no model"),
        (
            r#"{"image_processor_type": "ViTImageProcessor", "size": {"edge": 3}}"#,
            "size is {\"edge\":3}, with keys other",
        ),
        (r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 3}}"#, "size is {\"height\":3}, neither"),
        (r#"{"image_processor_type": "ViTImageProcessor", "size": 0}"#, "size is 0, not a whole number from 1"),
        (r#"{"image_processor_type": "ViTImageProcessor", "size": 1.5}"#, "size is 1.5, not a whole number from 1"),
        (r#"{"image_processor_type": "ViTImageProcessor", "resample": 9}"#, "resample is 9, not a number of Pillow's"),
        (r#"{"image_processor_type": "ViTImageProcessor", "do_pad": true}"#, "do_pad is true, a step that is not"),
        (
            r#"{"image_processor_type": "ViTImageProcessor", "do_resize": "no"}"#,
            "do_resize is \"no\", neither true nor",
        ),
        (
            r#"{"image_processor_type": "ViTImageProcessor", "do_center_crop": true}"#,
            "crop_size is null, no height and",
        ),
        (
            r#"{"image_processor_type": "ViTImageProcessor", "image_mean": [0.5]}"#,
            "image_mean is [0.5], not a number for",
        ),
        (r#"{"image_processor_type": "ViTImageProcessor", "image_std": [1, 0, 1]}"#, "image_std is [1,0,1], by which"),
        (
            r#"{"image_processor_type": "ViTImageProcessor", "rescale_factor": []}"#,
            "rescale_factor is [], not a finite",
        ),
    ] {
        let got = refusal(config);
        assert!(got.strip_prefix(start).is_some_and(|rest| rest.starts_with(want)), "{config}: {got}");
    }
}

#[test]
fn folders_are_read_whichever_file_names_the_processor() {
    let read = |files: &[(&str, &[u8])]| {
        let store = MemoryStore::new(1 << 24);
        let root = import_files(files, &store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
        ImageProcessor::read(&Directory::open(&store, &root).expect("opens"), "")
    };
    let bare: &[u8] = br#"{"size": 32, "do_resize": true}"#;
    let vit = read(&[("preprocessor_config.json", bare), ("config.json", br#"{"model_type": "vit"}"#)]).expect("ViT");
    assert_eq!(vit.output_size(), Some((32, 32)));
    let bundle: &[u8] = br#"{"image_processor": {"image_processor_type": "SiglipImageProcessorFast"}}"#;
    let siglip = read(&[("processor_config.json", bundle)]).expect("SigLIP");
    assert_eq!(siglip.output_size(), Some((224, 224)));
    assert!(matches!(read(&[("a", b"")]), Err(ConfigError::Absent { file }) if file == "preprocessor_config.json"));
    assert!(matches!(read(&[("preprocessor_config.json", bare)]), Err(ConfigError::Option { .. })));
}

/// A PNG whose header claims this size and whose data is missing.
fn claims(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = bytes("media/pictures/rgb.png");
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = bytes[12..29].iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    });
    bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
    bytes
}

#[test]
fn a_picture_that_claims_to_be_huge_is_refused_before_memory_is_taken() {
    assert!(Picture::decode(&claims(17, 13)).is_ok(), "the header is made well");
    let err = Picture::decode(&claims(100_000, 100_000)).expect_err("ten billion pixels");
    assert!(matches!(err, ImageError::Size { width: 100_000, height: 100_000, .. }), "{err}");
    let long = Picture::from_rgb(1 << 20, 1, vec![0; 3 << 20]).expect("allowed");
    let config = br#"{"image_processor_type": "CLIPImageProcessor", "size": 224}"#;
    let err = ImageProcessor::from_json("x", config).expect("good").process(&[long]).expect_err("stretched");
    assert!(matches!(err, ImageError::Size { what: "the resized picture", .. }), "{err}");
    assert!(matches!(Picture::from_rgb(2, 2, vec![0; 11]), Err(ImageError::Pixels { want: 12, got: 11, .. })));
    assert!(matches!(Picture::from_rgb(0, 2, vec![]), Err(ImageError::Size { .. })));
    assert!(matches!(Picture::decode(b"plain text"), Err(ImageError::Decode { .. })));
}

const FILES: [&str; 8] = [
    "rgb.png",
    "rgb.bmp",
    "lossless.webp",
    "two_frames.gif",
    "turned.jpg",
    "grey_16_bits.png",
    "palette.bmp",
    "turned.png",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_pictures_never_panic(which in 0..FILES.len(), at in any::<usize>(), with in any::<u8>(), cut in any::<usize>()) {
        let mut bytes = bytes(&format!("media/pictures/{}", FILES[which]));
        let len = bytes.len();
        bytes[at % len] = with;
        let _ = Picture::decode(&bytes);
        bytes.truncate(cut % len);
        let _ = Picture::decode(&bytes);
    }

    #[test]
    fn random_bytes_are_no_picture(bytes in proptest::collection::vec(any::<u8>(), 0..200), which in 0..FILES.len()) {
        let _ = Picture::decode(&bytes);
        let start = crate::golden::bytes(&format!("media/pictures/{}", FILES[which]));
        let _ = Picture::decode(&[&start[..12.min(start.len())], &bytes].concat());
    }

    #[test]
    fn random_configurations_never_panic(
        key in "(size|crop_size|resample|image_mean|image_std|rescale_factor|do_resize|do_center_crop)",
        value in "(null|-1|0|1e300|70000|\"x\"|\\[\\]|\\[1,2\\]|\\{\\}|\\{\"shortest_edge\":3,\"longest_edge\":2\\}|true)",
    ) {
        for class in ["ViT", "CLIP"] {
            let config = format!("{{\"image_processor_type\": \"{class}ImageProcessor\", \"{key}\": {value}}}");
            if let Ok(processor) = ImageProcessor::from_json("x", config.as_bytes()) {
                let _ = processor.process(&[Picture::from_rgb(2, 3, vec![1; 18]).expect("fits")]);
            }
        }
    }
}
