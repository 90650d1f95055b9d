"""Writes the pictures of this folder, and beside each what Pillow's convert("RGB") makes of it (NAME.png in expected/).

Pillow 13. Run in this folder: python make.py
"""
import os

import numpy as np
from PIL import Image

h, w = 24, 40
y, x = np.mgrid[0:h, 0:w]
rgb = np.stack([x * 6, y * 10, (x + y) * 4], -1).astype(np.uint8)
picture = Image.fromarray(rgb)
alpha = Image.fromarray(np.dstack([rgb, (x * 6).astype(np.uint8)]), "RGBA")
palette = picture.quantize(16)
os.makedirs("expected", exist_ok=True)


def save(image, name, **options):
    image.save(name, **options)
    Image.open(name).convert("RGB").save(f"expected/{name}.png", optimize=True)


save(picture, "baseline.jpg", quality=95, subsampling=0)
save(picture, "subsampled.jpg", quality=90, subsampling=2)
save(picture, "progressive.jpg", quality=95, subsampling=0, progressive=True)
save(picture.convert("L"), "grey.jpg", quality=95)
save(picture.convert("CMYK"), "cmyk.jpg", quality=95, subsampling=0)
save(picture, "rgb.png")
save(alpha, "rgba.png")
save(palette, "palette.png")
save(palette, "palette_transparent.png", transparency=3)
save(picture.convert("L"), "grey.png")
save(picture.convert("LA"), "grey_alpha.png")
save(picture.convert("1"), "one_bit.png")
save(picture, "lossless.webp", lossless=True)
save(picture, "lossy.webp", quality=90)
save(alpha, "alpha.webp", lossless=True, exact=True)
save(palette, "palette.gif")
palette.save("animated.gif", save_all=True, append_images=[palette.transpose(Image.Transpose.ROTATE_180)])
Image.open("animated.gif").convert("RGB").save("expected/animated.gif.png", optimize=True)
turned = picture.transpose(Image.Transpose.ROTATE_180)
picture.save("animated.webp", save_all=True, append_images=[turned], lossless=True)
Image.open("animated.webp").convert("RGB").save("expected/animated.webp.png", optimize=True)
save(picture, "rgb.bmp")
save(palette, "palette.bmp")
# What `qwen_vl_utils` does with transparent pictures.
white = Image.new("RGB", alpha.size, (255, 255, 255))
white.paste(alpha, mask=alpha.getchannel("A"))
white.save("expected/over_white.png", optimize=True)
