#if defined(KERNELS_HELIUM)

/* Windows in tiles of 4 x 4, each one vector of a dot product.

   The plane is kept in strips of four rows: strip j has rows 2j to 2j + 3, column by column, so that 16 neighbouring bytes
   are a tile and the next window is 4 bytes on. The first two and the last two of the rows belong to two outputs one above
   the other: with the weights moved down, the same tile gives the lower one. */

#define TILE_BYTES 16

/* Image row `input` to where it begins in two strips: `lower` has it as row 0 or 1, `upper` as row 2 or 3. */
INLINE void depthwise_load_row(const int8_t *input, int8_t *lower, int8_t *upper, int32_t width, int32_t channels)
{
    const uint16x8_t columns = vidupq_n_u16(0, 1), from = vmulq_n_u16(columns, (uint16_t)channels), to = vshlq_n_u16(columns, 2);
    for (; width > 0; width -= 8, input += 8 * channels, lower += 32, upper += 32) {
        const mve_pred16_t some = vctp16q((uint32_t)width);
        const int16x8_t pixels = vldrbq_gather_offset_z_s16(input, from, some);
        vstrbq_scatter_offset_p_s16(upper, to, pixels, some);
        vstrbq_scatter_offset_p_s16(lower, to, pixels, some);
    }
}

/* Two rows that are rows 0 and 1 of a strip: pairs of bytes. */
INLINE void depthwise_load_rows(const int8_t *input, int8_t *lower, int8_t *upper, int32_t width, int32_t channels)
{
    const uint16x8_t columns = vidupq_n_u16(0, 1), from = vmulq_n_u16(columns, (uint16_t)channels), to = vshlq_n_u16(columns, 2);
    const int8_t *second = input + width * channels;
    for (; width >= 8; width -= 8, input += 8 * channels, second += 8 * channels, lower += 32, upper += 32) {
        const int16x8_t pixels = vsliq_n_s16(vldrbq_gather_offset_s16(input, from), vldrbq_gather_offset_s16(second, from), 8);
        vstrhq_scatter_offset_s16((int16_t *)(void *)upper, to, pixels);
        vstrhq_scatter_offset_s16((int16_t *)(void *)lower, to, pixels);
    }
    if (width > 0) {
        const mve_pred16_t some = vctp16q((uint32_t)width);
        const int16x8_t first = vldrbq_gather_offset_z_s16(input, from, some);
        const int16x8_t pixels = vsliq_n_s16(first, vldrbq_gather_offset_z_s16(second, from, some), 8);
        vstrhq_scatter_offset_p_s16((int16_t *)(void *)upper, to, pixels, some);
        vstrhq_scatter_offset_p_s16((int16_t *)(void *)lower, to, pixels, some);
    }
}

/* One channel of the image into strips. Every row is in two of them; the plane begins with one that nobody reads. */
static void depthwise_load_strips(const depthwise_t *layer, const int8_t *input, plane_t *plane)
{
    const int32_t channels = layer->in_channels, width = layer->in_width, strip = layer->row;
    int32_t y = layer->pad_top, left = layer->in_height;
    int8_t *lower = plane + (1 + (y >> 1)) * strip + 4 * layer->pad_left, *upper = lower - strip + 2;
    if (y & 1) {
        depthwise_load_row(input, lower + 1, upper + 1, width, channels);
        input += width * channels, left--, lower += strip, upper += strip;
    }
    for (; left >= 2; left -= 2, input += 2 * width * channels, lower += strip, upper += strip)
        depthwise_load_rows(input, lower, upper, width, channels);
    if (left) depthwise_load_row(input, lower, upper, width, channels);
}

/* The weights as tiles: once where the window begins at a strip's first row, once `down` rows lower. */
INLINE void depthwise_tile_weights(const depthwise_t *layer, int32_t channel, int32_t across, int32_t down, int8_t *here, int8_t *lower)
{
    const int32_t height = layer->kernel_height, width = layer->kernel_width;
    const int8_t *w = layer->weights + channel * height * width;
    for (int32_t y = 0; y < height; y++)
        for (int32_t x = 0; x < width; x++, w++) {
            const int32_t at = (x >> 2) * TILE_BYTES + (x & 3) * 4, y1 = y + down;
            here[at + (y >> 2) * across * TILE_BYTES + (y & 3)] = *w;
            if (down) lower[at + (y1 >> 2) * across * TILE_BYTES + (y1 & 3)] = *w;
        }
}

/* The same for a window of one tile, without the copy. */
INLINE int8x16_t depthwise_one_tile(const depthwise_t *layer, int32_t channel)
{
    const int32_t height = layer->kernel_height, width = layer->kernel_width;
    const uint8x16_t lane = vidupq_n_u8(0, 1), y = vandq_u8(lane, vdupq_n_u8(3)), x = vshrq_n_u8(lane, 2);
    const mve_pred16_t inside = vcmphiq_u8(vdupq_n_u8((uint8_t)height), y) & vcmphiq_u8(vdupq_n_u8((uint8_t)width), x);
    return vldrbq_gather_offset_z_s8(layer->weights + channel * height * width, vmlaq_n_u8(x, y, (uint8_t)width), inside);
}

/* Four windows that are `step` bytes apart: dot products of a tile with the weights and with those moved down. */
#define FOUR_TILES(p, w, v, step, a, b)                                                                                \
    do {                                                                                                               \
        int32_t a0, a2, b0, b2;                                                                                        \
        __asm("vldrb.8 q2, [%[at]]\n\t vldrb.8 q3, [%[at], %[x2]]\n\t"                                                 \
              "vmladav.s8 %[a0], q2, %q[here]\n\t vmladav.s8 %[b0], q2, %q[lower]\n\t vldrb.8 q2, [%[at], %[x1]]\n\t"  \
              "vmladav.s8 %[a2], q3, %q[here]\n\t vmladav.s8 %[b2], q3, %q[lower]\n\t vldrb.8 q3, [%[at], %[x3]]\n\t"  \
              "vmov %q[A][2], %q[A][0], %[a0], %[a2]\n\t vmov %q[B][2], %q[B][0], %[b0], %[b2]\n\t"                    \
              "vmladav.s8 %[a0], q2, %q[here]\n\t vmladav.s8 %[b0], q2, %q[lower]\n\t"                                 \
              "vmladav.s8 %[a2], q3, %q[here]\n\t vmladav.s8 %[b2], q3, %q[lower]\n\t"                                 \
              "vmov %q[A][3], %q[A][1], %[a0], %[a2]\n\t vmov %q[B][3], %q[B][1], %[b0], %[b2]"                        \
              : [a0] "=&Te"(a0), [a2] "=&Te"(a2), [b0] "=&Te"(b0), [b2] "=&Te"(b2), [A] "=&w"(a), [B] "=&w"(b)         \
              : [at] "r"(p), [here] "w"(w), [lower] "w"(v), [x1] "i"(step), [x2] "i"(2 * (step)), [x3] "i"(3 * (step)) \
              : "q2", "q3", "memory");                                                                                 \
    } while (0)

/* Sums to results: bytes 0, 4, 8, 12 are those of the upper row, bytes 2, 6, 10, 14 those of the lower one. */
INLINE int16x8_t depthwise_results(int32x4_t upper, int32x4_t lower, int32_t scale, int32_t zero)
{
    __asm("vcvt.f32.s32 %q0, %q0\n\t vcvt.f32.s32 %q1, %q1\n\t vmul.f32 %q0, %q0, %2\n\t vmul.f32 %q1, %q1, %2\n\t"
          "vcvtn.s32.f32 %q0, %q0\n\t vcvtn.s32.f32 %q1, %q1\n\t"
          "vqmovnb.s32 %q0, %q0\n\t vqmovnt.s32 %q0, %q1\n\t vqadd.s16 %q0, %q0, %3\n\t vqmovnb.s16 %q0, %q0"
          : "+w"(upper), "+w"(lower) : "r"(scale), "r"(zero));
    return vreinterpretq_s16_s32(upper);
}

INLINE void depthwise_tiles(const depthwise_t *layer, plane_t *plane, int32_t channel, int8_t *output, int32_t output_row, const int32_t stride, const int single)
{
    const int32_t down = layer->stride_y == 1; /* whether a tile is for two rows */
    const int32_t across = (layer->kernel_width + 3) >> 2, deep = (layer->kernel_height + down + 3) >> 2;
    const int32_t strip = layer->row, bias = layer->bias[channel], channels = layer->out_channels, zero = layer->out_zero;
    const int32_t height = layer->out_height, width = layer->out_width;
    int32_t scale; /* of the float its bits */
    int8_t *const here = plane + layer->size, *const lower = here + across * deep * TILE_BYTES;
    const int8x16_t *const w = (const int8x16_t *)(const void *)here, *const v = (const int8x16_t *)(const void *)lower;
    const uint16x8_t number = vidupq_n_u16(0, 1), pixel = vshrq_n_u16(number, 1);
    const uint16x8_t offsets = vmlaq_n_u16(vmulq_n_u16(vandq_u16(number, vdupq_n_u16(1)), (uint16_t)output_row), pixel, (uint16_t)channels);
    int8x16_t w0 = vdupq_n_s8(0), v0 = w0;
    memcpy(&scale, layer->scale + channel, sizeof scale);
    if (single)
        w0 = depthwise_one_tile(layer, channel), v0 = vreinterpretq_s8_s32(vshlq_n_s32(vreinterpretq_s32_s8(w0), 8));
    else
        depthwise_tile_weights(layer, channel, across, down, here, lower);
    plane += strip;
    for (int32_t y = 0; y < height; y += 1 + down, output += (1 + down) * output_row, plane += strip) {
        const plane_t *p = plane;
        mve_pred16_t stored = down && y + 1 < height ? 0xFFFF : 0x3333;
        int8_t *out = output;
        for (int32_t left = width; left > 0; left -= 4, p += 16 * stride, out += 4 * channels) {
            int32x4_t a, b;
            if (single) {
                FOUR_TILES(p, w0, v0, 4 * stride, a, b);
                a = vaddq_n_s32(a, bias), b = vaddq_n_s32(b, bias);
            } else {
                int32x4_t c, d;
                a = b = vdupq_n_s32(bias);
                for (int32_t i = 0; i < deep; i++)
                    for (int32_t j = 0; j < across; j++) {
                        FOUR_TILES(p + 2 * i * strip + j * TILE_BYTES, w[i * across + j], v[i * across + j], 4 * stride, c, d);
                        a = vaddq_s32(a, c), b = vaddq_s32(b, d);
                    }
            }
            if (left < 4) stored &= (mve_pred16_t)((1 << 4 * left) - 1);
            vstrbq_scatter_offset_p_s16(out, offsets, depthwise_results(a, b, scale, zero), stored);
        }
    }
}

#define DEPTHWISE_TILES(name, stride, single)                                                                          \
    SOME_MODELS void name(const depthwise_t *layer, plane_t *plane, int32_t channel, int8_t *output, int32_t row)      \
    {                                                                                                                  \
        depthwise_tiles(layer, plane, channel, output, row, stride, single);                                           \
    }
DEPTHWISE_TILES(depthwise_three_1, 1, 1)
DEPTHWISE_TILES(depthwise_three_2, 2, 1)
DEPTHWISE_TILES(depthwise_wide_1, 1, 0)
DEPTHWISE_TILES(depthwise_wide_2, 2, 0)

#endif
