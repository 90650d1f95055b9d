/* Forgets an object: whoever looks for leaks must find it. */
#include "check.h"

static int lose_one(void)
{
    owlet_image *image = NULL;
    uint8_t pixels[12] = {0};
    owlet_pixels raw = owlet_pixels_init();

    raw.data = pixels;
    raw.n_bytes = sizeof(pixels);
    raw.width = 2;
    raw.height = 2;
    raw.format = OWLET_PIXEL_FORMAT_RGB8;
    OK(owlet_image_from_pixels(&raw, &image, &error));
    return (int)owlet_image_width(image);
}

int main(void)
{
    return lose_one() == 2 ? 0 : 1;
}
