//! What `preprocessor_config.json` says is done to a picture: resize, crop, scale, normalise.
//!
//! The steps are those of transformers' Pillow-based processors for ViT, DeiT, CLIP and SigLIP, in their order and with their
//! defaults, in whichever spelling a file of the last years has. The "Fast" processors of the same names resize
//! with torchvision, which differs by a level here and there; their files are read as if Pillow resized.

use serde_json::Value;
use tabpool_content::Directory;
use tabpool_tensor::Tensor;

use super::decode::check_size;
use super::resize::{Resampling, resize};
use super::{ImageError, Picture};
use crate::ConfigError;
use crate::config::{Options, read_processor};

/// The most numbers of one batch: a gigabyte of them.
pub const MAX_BATCH_VALUES: usize = 1 << 28;
/// The longest side of a size in a configuration.
const MAX_SIDE: usize = 1 << 14;

/// What a processor does unless its file says otherwise.
struct Defaults {
    /// The name, without "ImageProcessor" or "FeatureExtractor" and what follows.
    name: &'static str,
    /// The `model_type` in `config.json` of models that it belongs to.
    model: &'static str,
    resampling: Resampling,
    size: Size,
    crop: Option<(usize, usize)>,
    mean: [f32; 3],
    deviation: [f32; 3],
    /// What a size that is one number means.
    square: bool,
}

const HALVES: [f32; 3] = [0.5; 3];
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

const KNOWN: [Defaults; 4] = [
    Defaults {
        name: "ViT",
        model: "vit",
        resampling: Resampling::Bilinear,
        size: Size::Exact { height: 224, width: 224 },
        crop: None,
        mean: HALVES,
        deviation: HALVES,
        square: true,
    },
    Defaults {
        name: "DeiT",
        model: "deit",
        resampling: Resampling::Bicubic,
        size: Size::Exact { height: 256, width: 256 },
        crop: Some((224, 224)),
        mean: HALVES,
        deviation: HALVES,
        square: true,
    },
    Defaults {
        name: "CLIP",
        model: "clip",
        resampling: Resampling::Bicubic,
        size: Size::Shortest { edge: 224, longest: None },
        crop: Some((224, 224)),
        mean: CLIP_MEAN,
        deviation: CLIP_DEVIATION,
        square: false,
    },
    Defaults {
        name: "Siglip",
        model: "siglip",
        resampling: Resampling::Bicubic,
        size: Size::Exact { height: 224, width: 224 },
        crop: None,
        mean: HALVES,
        deviation: HALVES,
        square: false,
    },
];

/// What a picture is resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// To just this, whatever its proportions.
    Exact { height: usize, width: usize },
    /// Its shorter side to `edge`, in proportion, unless the longer one would then be longer than `longest`.
    Shortest { edge: usize, longest: Option<usize> },
}

impl Size {
    /// The (width, height) of a picture of this (width, height).
    fn of(self, (width, height): (usize, usize)) -> (usize, usize) {
        match self {
            Self::Exact { height, width } => (width, height),
            Self::Shortest { edge, longest: None } => {
                // The reference multiplies as integers, divides as f64 and truncates.
                let long = truncated((edge * width.max(height)) as f64 / width.min(height) as f64);
                if width <= height { (edge, long) } else { (long, edge) }
            }
            Self::Shortest { edge, longest: Some(longest) } => bounded(edge, longest, (width, height)),
        }
    }
}

/// `get_size_with_aspect_ratio` of transformers, with sides as (width, height).
fn bounded(edge: usize, longest: usize, (width, height): (usize, usize)) -> (usize, usize) {
    let (short, long) = (width.min(height) as f64, width.max(height) as f64);
    let (mut size, mut raw) = (edge, edge as f64);
    if long / short * edge as f64 > longest as f64 {
        raw = longest as f64 * short / long;
        size = truncated(raw.round_ties_even());
    }
    if (height <= width && height == size) || (width <= height && width == size) {
        (width, height)
    } else if width < height {
        (size, truncated(raw * height as f64 / width as f64))
    } else {
        (truncated(raw * width as f64 / height as f64), size)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "truncation is how the reference rounds")]
fn truncated(value: f64) -> usize {
    value as usize
}

/// Turns pictures into a vision model's `pixel_values`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    resize: Option<(Size, Resampling)>,
    /// (height, width)
    crop: Option<(usize, usize)>,
    rescale: Option<f64>,
    /// Mean and standard deviation of each channel.
    normalize: Option<([f32; 3], [f32; 3])>,
}

impl ImageProcessor {
    /// Reads the processor of the model whose files lie under `base` (`""`, or a path that ends in `/`):
    /// `preprocessor_config.json`, or the `image_processor` in `processor_config.json`. Where that names no processor, as the
    /// oldest ones do not, `model_type` of `config.json` decides.
    ///
    /// # Errors
    /// [`ConfigError`] with the file and the key at fault.
    pub fn read(folder: &Directory<'_>, base: &str) -> Result<Self, ConfigError> {
        read_processor(folder, base, "image_processor", Self::of)
    }

    /// Reads a processor from the bytes of a `preprocessor_config.json`; errors call it `file`.
    ///
    /// # Errors
    /// [`ConfigError`] with the key at fault.
    pub fn from_json(file: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::of(&Options::parse(file, bytes)?, None)
    }

    fn of(options: &Options, model: Option<&str>) -> Result<Self, ConfigError> {
        let defaults = defaults(options, model)?;
        refuse_unknown_steps(options)?;
        // Pictures come as RGB, so this decides nothing; it is checked all the same.
        options.flag("do_convert_rgb", true)?;
        let crop = options.flag("do_center_crop", defaults.crop.is_some())?;
        let (rescale, normalize) = (options.flag("do_rescale", true)?, options.flag("do_normalize", true)?);
        Ok(Self {
            resize: if options.flag("do_resize", true)? {
                Some((size(options, defaults)?, resampling(options, defaults)?))
            } else {
                None
            },
            crop: if crop { Some(crop_size(options, defaults)?) } else { None },
            rescale: if rescale { Some(options.number("rescale_factor", 1.0 / 255.0)?) } else { None },
            normalize: if normalize {
                let mean = channels(options, "image_mean", defaults.mean)?;
                let deviation = channels(options, "image_std", defaults.deviation)?;
                if deviation.contains(&0.0) {
                    return Err(options.refuse("image_std", "by which nothing can be divided"));
                }
                Some((mean, deviation))
            } else {
                None
            },
        })
    }

    /// The (height, width) of what comes out, where it does not depend on the picture.
    #[must_use]
    pub fn output_size(&self) -> Option<(usize, usize)> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop),
            (None, Some((Size::Exact { height, width }, _))) => Some((height, width)),
            _ => None,
        }
    }

    /// Pictures as one batch: `f32 [pictures, 3, height, width]`, channels red, green, blue.
    ///
    /// # Errors
    /// [`ImageError::NoPictures`], [`ImageError::Sizes`] where they come out in different sizes, [`ImageError::Size`] where one
    /// would be stretched beyond [`MAX_PIXELS`](super::MAX_PIXELS), [`ImageError::BatchTooLarge`].
    pub fn process(&self, pictures: &[Picture]) -> Result<Tensor, ImageError> {
        let sizes = pictures.iter().map(|p| self.size_of(p)).collect::<Result<Vec<_>, _>>()?;
        let &(width, height) = sizes.first().ok_or(ImageError::NoPictures)?;
        if let Some(position) = sizes.iter().position(|s| *s != (width, height)) {
            let (first_width, first_height) = (width, height);
            let (width, height) = sizes[position];
            return Err(ImageError::Sizes { position, width, height, first_width, first_height });
        }
        let values = (width * height * 3) as u64 * pictures.len() as u64;
        if values > MAX_BATCH_VALUES as u64 {
            return Err(ImageError::BatchTooLarge { pictures: pictures.len(), values, limit: MAX_BATCH_VALUES });
        }
        let mut all = Vec::with_capacity(width * height * 3 * pictures.len());
        let tables: [Vec<f32>; 3] = std::array::from_fn(|channel| self.table(channel));
        for picture in pictures {
            let pixels = self.pixels(picture, (width, height))?;
            for (channel, table) in tables.iter().enumerate() {
                all.extend(pixels[channel..].iter().step_by(3).map(|&value| table[usize::from(value)]));
            }
        }
        Ok(Tensor::from_f32([pictures.len(), 3, height, width], all)?)
    }

    /// The (width, height) that a picture comes out in.
    fn size_of(&self, picture: &Picture) -> Result<(usize, usize), ImageError> {
        let resized = self.resized(picture)?;
        Ok(self.crop.map_or(resized, |(height, width)| (width, height)))
    }

    fn resized(&self, picture: &Picture) -> Result<(usize, usize), ImageError> {
        let from = (picture.width() as usize, picture.height() as usize);
        let to = self.resize.map_or(from, |(size, _)| size.of(from));
        check_size("the resized picture", to.0 as u64, to.1 as u64)?;
        Ok(to)
    }

    /// The resized and cropped pixels.
    fn pixels(&self, picture: &Picture, output: (usize, usize)) -> Result<Vec<u8>, ImageError> {
        let from = (picture.width() as usize, picture.height() as usize);
        let to = self.resized(picture)?;
        let pixels = match self.resize {
            Some((_, resampling)) => {
                // The pass over columns comes first, over all rows: wide and tall at once could be far more than both ends.
                check_size("the half resized picture", to.0 as u64, from.1 as u64)?;
                resize(picture.rgb(), from, to, resampling)
            }
            None => picture.rgb().to_vec(),
        };
        Ok(if self.crop.is_some() { center_crop(&pixels, to, output) } else { pixels })
    }

    /// What each 8-bit value of a channel becomes, rounded as the reference rounds: scaled in f64, then f32.
    #[expect(clippy::cast_possible_truncation, reason = "the reference rounds to f32 here")]
    fn table(&self, channel: usize) -> Vec<f32> {
        let scaled = |value: u8| self.rescale.map_or(f32::from(value), |factor| (f64::from(value) * factor) as f32);
        let normal = |value: f32| match &self.normalize {
            Some((mean, deviation)) => (value - mean[channel]) / deviation[channel],
            None => value,
        };
        (0..=255).map(|value| normal(scaled(value))).collect()
    }
}

/// The middle of a picture, (width, height); where that is larger, with black around the picture (`center_crop` of
/// transformers, which puts the odd pixel above and to the left).
fn center_crop(rgb: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    // Where the output's first pixel lies in the input; outside of it where that is negative.
    let start = |from: usize, to: usize| (from.cast_signed() - to.cast_signed()).div_euclid(2);
    let (left, top) = (start(from.0, to.0), start(from.1, to.1));
    let mut out = vec![0; to.0 * to.1 * 3];
    for (y, row) in out.chunks_exact_mut(to.0 * 3).enumerate() {
        let source = top + y.cast_signed();
        let Some(source) = usize::try_from(source).ok().filter(|&s| s < from.1) else { continue };
        let source = &rgb[source * from.0 * 3..][..from.0 * 3];
        let (begin, skip) = (left.max(0).unsigned_abs(), (-left).max(0).unsigned_abs());
        let count = (from.0 - begin).min(to.0 - skip);
        row[skip * 3..][..count * 3].copy_from_slice(&source[begin * 3..][..count * 3]);
    }
    out
}

/// Which processor the file is for.
fn defaults(options: &Options, model: Option<&str>) -> Result<&'static Defaults, ConfigError> {
    for key in ["image_processor_type", "feature_extractor_type"] {
        let Some(name) = options.text(key)? else { continue };
        let bare = name.strip_suffix("Fast").or_else(|| name.strip_suffix("Pil")).unwrap_or(name);
        let bare = bare.strip_suffix("ImageProcessor").or_else(|| bare.strip_suffix("FeatureExtractor"));
        let known = KNOWN.iter().find(|k| Some(k.name) == bare);
        return known.ok_or_else(|| options.refuse(key, "which is not supported: ViT, DeiT, CLIP and Siglip are"));
    }
    let known = KNOWN.iter().find(|k| Some(k.model) == model);
    known.ok_or_else(|| {
        options.refuse("image_processor_type", "and config.json names no model whose processor is known")
    })
}

/// Steps that other processors have: left out silently, the model would see another picture.
fn refuse_unknown_steps(options: &Options) -> Result<(), ConfigError> {
    let known = ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"];
    for key in options.keys().filter(|k| k.starts_with("do_") && !known.contains(k)) {
        if options.flag(key, false)? {
            return Err(options.refuse(key, "a step that is not supported"));
        }
    }
    Ok(())
}

fn size(options: &Options, defaults: &Defaults) -> Result<Size, ConfigError> {
    let Some(value) = options.get("size") else { return Ok(defaults.size) };
    let side = |value: &Value| options.counted("size", value, MAX_SIDE);
    let Value::Object(map) = value else {
        if let Some([height, width]) = value.as_array().map(Vec::as_slice) {
            return Ok(Size::Exact { height: side(height)?, width: side(width)? });
        }
        let edge = side(value)?;
        return Ok(match defaults.square {
            true => Size::Exact { height: edge, width: edge },
            false => Size::Shortest { edge, longest: None },
        });
    };
    let known = ["height", "width", "shortest_edge", "longest_edge"];
    if map.iter().any(|(key, value)| !value.is_null() && !known.contains(&key.as_str())) {
        return Err(options.refuse("size", "with keys other than height and width, or shortest_edge and longest_edge"));
    }
    let get = |key: &str| map.get(key).filter(|v| !v.is_null()).map(side).transpose();
    match (get("height")?, get("width")?, get("shortest_edge")?, get("longest_edge")?) {
        (Some(height), Some(width), None, None) => Ok(Size::Exact { height, width }),
        (None, None, Some(edge), longest) => Ok(Size::Shortest { edge, longest }),
        _ => Err(options.refuse("size", "neither height and width nor a shortest_edge")),
    }
}

fn crop_size(options: &Options, defaults: &Defaults) -> Result<(usize, usize), ConfigError> {
    let refuse = || options.refuse("crop_size", "no height and width");
    let Some(value) = options.get("crop_size") else { return defaults.crop.ok_or_else(refuse) };
    let side = |value: &Value| options.counted("crop_size", value, MAX_SIDE);
    match value {
        Value::Object(map) => match (map.get("height"), map.get("width")) {
            (Some(height), Some(width)) => Ok((side(height)?, side(width)?)),
            _ => Err(refuse()),
        },
        Value::Array(list) => match list.as_slice() {
            [height, width] => Ok((side(height)?, side(width)?)),
            _ => Err(refuse()),
        },
        value => side(value).map(|side| (side, side)),
    }
}

fn resampling(options: &Options, defaults: &Defaults) -> Result<Resampling, ConfigError> {
    let Some(value) = options.get("resample") else { return Ok(defaults.resampling) };
    let kind = value.as_u64().and_then(Resampling::from_number);
    kind.ok_or_else(|| options.refuse("resample", "not a number of Pillow's filters, 0 to 5"))
}

/// A number for each channel; one number stands for all three.
#[expect(clippy::cast_possible_truncation, reason = "the reference rounds to f32 here")]
fn channels(options: &Options, key: &str, default: [f32; 3]) -> Result<[f32; 3], ConfigError> {
    let Some(value) = options.get(key) else { return Ok(default) };
    let number = |value: &Value| value.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
    let all = match value {
        Value::Array(list) => list.iter().map(number).collect::<Option<Vec<_>>>(),
        value => number(value).map(|n| vec![n; 3]),
    };
    let three = all.and_then(|all| <[f32; 3]>::try_from(all).ok());
    three.ok_or_else(|| options.refuse(key, "not a number for each of the three channels"))
}

#[cfg(test)]
mod tests {
    use super::{Size, center_crop};

    #[test]
    fn a_crop_larger_than_the_picture_has_the_odd_pixel_of_black_in_front() {
        let picture: Vec<u8> = (1..=6).flat_map(|v| [v; 3]).collect();
        let grey = |rgb: &[u8]| rgb.iter().step_by(3).copied().collect::<Vec<_>>();
        // 3 x 2 in the middle of 6 x 3: two columns before it, one after; the row of black is above.
        let want = [[0; 6], [0, 0, 1, 2, 3, 0], [0, 0, 4, 5, 6, 0]].concat();
        assert_eq!(grey(&center_crop(&picture, (3, 2), (6, 3))), want);
        assert_eq!(grey(&center_crop(&picture, (3, 2), (2, 1))), [1, 2]);
        assert_eq!(grey(&center_crop(&picture, (3, 2), (1, 4))), [0, 2, 5, 0]);
    }

    #[test]
    fn sides_are_in_proportion_and_bounded() {
        let size = Size::Shortest { edge: 40, longest: None };
        assert_eq!(size.of((97, 61)), (63, 40));
        assert_eq!(size.of((61, 97)), (40, 63));
        let bounded = Size::Shortest { edge: 40, longest: Some(50) };
        assert_eq!(bounded.of((97, 61)), (50, 31));
        assert_eq!(bounded.of((50, 40)), (50, 40));
    }
}
