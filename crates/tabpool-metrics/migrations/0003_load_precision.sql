-- Which arithmetic a load came to; loads from before there was a choice were of 32 bits.

ALTER TABLE model_loads ADD COLUMN "precision" VARCHAR DEFAULT 'f32';   -- f32, f16, int8
