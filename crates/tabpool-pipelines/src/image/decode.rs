//! A picture's file as 8-bit RGB, the way transformers' pipelines load it.
//!
//! `load_image` of transformers opens a file with Pillow, turns it upright as its EXIF orientation says, and calls
//! `convert("RGB")`. So do we: transparency is dropped (the colour under it counts), greys are repeated, palettes looked
//! up, samples of 16 bits lose their lower 8. Only greys of 16 bits without transparency are cut off at 255, as Pillow does.
//! PNG, BMP, GIF (the first frame) and lossless WebP are exact. JPEG leaves the inverse transform and the enlargement of
//! colour to the decoder, where values differ from libjpeg's by a few levels at sharp edges.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::ImageError;
use crate::guard::caught;

/// The largest file of a picture, in bytes.
pub const MAX_PICTURE_BYTES: usize = 128 << 20;
/// The most pixels of a picture, decoded or resized: 8192 x 8192.
pub const MAX_PIXELS: u64 = 64 << 20;
/// The longest side.
const MAX_SIDE: u32 = 1 << 20;
/// What a decoder may take for itself: the most pixels in their widest form, four samples of 16 bits, and as much again.
const MAX_DECODER_BYTES: u64 = MAX_PIXELS * 16;

/// A picture: 8-bit RGB, row by row from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Picture {
    /// A picture of these pixels, three bytes each, row by row from the top.
    ///
    /// # Errors
    /// [`ImageError::Size`], [`ImageError::Pixels`].
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, ImageError> {
        check_size("the picture", u64::from(width), u64::from(height))?;
        let want = width as usize * height as usize * 3;
        if rgb.len() != want {
            return Err(ImageError::Pixels { width, height, want, got: rgb.len() });
        }
        Ok(Self { width, height, rgb })
    }

    /// Decodes a PNG, JPEG, WebP, GIF (its first frame) or BMP file. The format is told by its first bytes. Its size is
    /// checked before memory is taken for it.
    ///
    /// # Errors
    /// [`ImageError::FileTooLarge`], [`ImageError::Decode`], [`ImageError::Size`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.len() > MAX_PICTURE_BYTES {
            return Err(ImageError::FileTooLarge { bytes: bytes.len(), limit: MAX_PICTURE_BYTES });
        }
        caught(|| Self::decoded(bytes))
            .unwrap_or_else(|panic| Err(ImageError::Decode { reason: format!("the decoder gave up: {panic}") }))
    }

    fn decoded(bytes: &[u8]) -> Result<Self, ImageError> {
        let failed = |reason: String| ImageError::Decode { reason };
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| failed(e.to_string()))?;
        if reader.format().is_none() {
            return Err(failed("it is no PNG, JPEG, WebP, GIF or BMP file".to_owned()));
        }
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_DECODER_BYTES);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(|e| failed(e.to_string()))?;
        let (width, height) = decoder.dimensions();
        check_size("the picture", u64::from(width), u64::from(height))?;
        // A file whose metadata is damaged still shows its pixels: it stands as it is, as in Pillow.
        let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
        let image = DynamicImage::from_decoder(decoder).map_err(|e| failed(e.to_string()))?;
        let mut image = DynamicImage::ImageRgb8(rgb(image));
        image.apply_orientation(orientation);
        let (width, height) = (image.width(), image.height());
        Self::from_rgb(width, height, image.into_rgb8().into_raw())
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, three bytes each, row by row from the top.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

/// Refuses a size without pixels, or with too many.
pub(super) fn check_size(what: &'static str, width: u64, height: u64) -> Result<(), ImageError> {
    let side = u64::from(MAX_SIDE);
    if width == 0 || height == 0 || width > side || height > side || width * height > MAX_PIXELS {
        return Err(ImageError::Size { what, width, height, limit: MAX_PIXELS });
    }
    Ok(())
}

/// The colours of a picture in 8 bits, as Pillow's `convert("RGB")` gives them.
fn rgb(image: DynamicImage) -> image::RgbImage {
    let (width, height) = (image.width(), image.height());
    let grey = |values: Vec<u8>| values.into_iter().flat_map(|v| [v; 3]).collect();
    let pixels: Vec<u8> = match image {
        DynamicImage::ImageRgb8(image) => return image,
        DynamicImage::ImageLuma8(image) => grey(image.into_raw()),
        DynamicImage::ImageLumaA8(image) => grey(image.pixels().map(|p| p[0]).collect()),
        DynamicImage::ImageRgba8(image) => image.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma16(image) => grey(image.pixels().map(|p| grey_of_16_bits(p[0])).collect()),
        DynamicImage::ImageLumaA16(image) => grey(image.pixels().map(|p| upper(p[0])).collect()),
        DynamicImage::ImageRgb16(image) => image.pixels().flat_map(|p| p.0.map(upper)).collect(),
        DynamicImage::ImageRgba16(image) => image.pixels().flat_map(|p| [p[0], p[1], p[2]].map(upper)).collect(),
        // No format that is decoded here has samples of other kinds; the library knows what to do with them.
        other => return other.into_rgb8(),
    };
    image::RgbImage::from_raw(width, height, pixels).unwrap_or_else(|| image::RgbImage::new(width, height))
}

/// The upper 8 of 16 bits.
fn upper(value: u16) -> u8 {
    value.to_be_bytes()[0]
}

/// What Pillow makes of a 16-bit grey: everything above 255 is white. Its greys of 16 bits are measurements, not shades.
fn grey_of_16_bits(value: u16) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
