//! Pictures and sounds as files hold them, and how much of them is in memory at a time.

use tabpool::{MAX_PICTURE_BYTES, MAX_SOUND_BYTES, Picture, Sound};

use crate::arriving::{Decoded, Decoding};

/// Pictures of a group take about this much: thirty of a telephone's camera would be ten times that.
const PICTURES_TOGETHER: usize = 128 << 20;
/// Sounds of a group: six minutes at 48 kHz.
const SOUNDS_TOGETHER: usize = 64 << 20;

/// Pictures, some in a group.
pub(crate) const PICTURES: Decoding<Picture> = Decoding {
    most: MAX_PICTURE_BYTES,
    decode: |bytes| Ok(Picture::decode(bytes)?),
    weight: |(_, read): &Decoded<Picture>| read.as_ref().map_or(0, |picture| picture.rgb().len()),
    together: PICTURES_TOGETHER,
};

/// Sounds, some in a group.
pub(crate) const SOUNDS: Decoding<Sound> = Decoding {
    most: MAX_SOUND_BYTES,
    decode: |bytes| Ok(Sound::decode(bytes)?),
    weight: |(_, read): &Decoded<Sound>| read.as_ref().map_or(0, |sound| size_of_val(sound.samples())),
    together: SOUNDS_TOGETHER,
};

/// Sounds one by one.
pub(crate) const ONE_SOUND: Decoding<Sound> = Decoding { together: 0, ..SOUNDS };
