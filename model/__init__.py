"""The science of Skylight: images in, masks, label maps and trained decoders out."""
