#if defined(KERNELS_HELIUM)

/* Windows in tiles of 4 x 4, each one vector of a dot product.

   The plane is kept in strips of four rows: strip j has rows 2j to 2j + 3, column by column, so that 16 neighbouring bytes
   are a tile and the next window is 4 bytes on. The first two and the last two of the rows belong to two outputs one above
   the other: with the weights moved down, the same tile gives the lower one. */

#define TILE_BYTES 16

/* Image row `input` to where it begins in two strips: `lower` has it as row 0 or 1, `upper` as row 2 or 3. */
INLINE void depthwise_load_row(const int8_t *input, int8_t *lower, int8_t *upper, int32_t width, int32_t channels, uint16x8_t from, uint16x8_t to)
{
    for (; width > 0; width -= 8, input += 8 * channels, lower += 32, upper += 32) {
        const mve_pred16_t some = vctp16q((uint32_t)width);
        const int16x8_t pixels = vldrbq_gather_offset_z_s16(input, from, some);
        vstrbq_scatter_offset_p_s16(upper, to, pixels, some);
        vstrbq_scatter_offset_p_s16(lower, to, pixels, some);
    }
}

/* Two rows that are rows 0 and 1 of a strip: pairs of bytes. */
INLINE void depthwise_load_rows(const int8_t *input, int8_t *lower, int8_t *upper, int32_t width, int32_t channels, uint16x8_t from, uint16x8_t to)
{
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
    const uint16x8_t columns = vidupq_n_u16(0, 1), from = vmulq_n_u16(columns, (uint16_t)channels), to = vshlq_n_u16(columns, 2);
    int32_t y = layer->pad_top, left = layer->in_height;
    int8_t *lower = plane + (1 + (y >> 1)) * strip + 4 * layer->pad_left, *upper = lower - strip + 2;
    if (y & 1) {
        depthwise_load_row(input, lower + 1, upper + 1, width, channels, from, to);
        input += width * channels, left--, lower += strip, upper += strip;
    }
    for (; left >= 2; left -= 2, input += 2 * width * channels, lower += strip, upper += strip)
        depthwise_load_rows(input, lower, upper, width, channels, from, to);
    if (left) depthwise_load_row(input, lower, upper, width, channels, from, to);
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
    const mve_pred16_t inside = vcmphiq_m_u8(vdupq_n_u8((uint8_t)width), x, vcmphiq_u8(vdupq_n_u8((uint8_t)height), y));
    return vldrbq_gather_offset_z_s8(layer->weights + channel * height * width, vmlaq_n_u8(x, y, (uint8_t)width), inside);
}

/* Dot products of four tiles, `step` bytes apart, with the weights and with those moved down: into %q[a] and %q[b].
   Then what makes results of them: bytes 0, 4, 8, 12 of %q[a] are those of the upper row, bytes 2, 6, 10, 14 the lower ones. */
#define FOUR_TILES                                                                                                     \
    "vldrb.8 q3, [%[p], %[x2]]\n\t vldrb.8 q2, [%[p]], %[x4]\n\t"                                                      \
    "vmladav.s8 %[a0], q2, %q[w]\n\t vmladav.s8 %[b0], q2, %q[v]\n\t vldrb.8 q2, [%[p], %[x1]]\n\t"                   \
    "vmladav.s8 %[a2], q3, %q[w]\n\t vmladav.s8 %[b2], q3, %q[v]\n\t vldrb.8 q3, [%[p], %[x3]]\n\t"                   \
    "vmov %q[a][2], %q[a][0], %[a0], %[a2]\n\t vmov %q[b][2], %q[b][0], %[b0], %[b2]\n\t"                              \
    "vmladav.s8 %[a0], q2, %q[w]\n\t vmladav.s8 %[b0], q2, %q[v]\n\t"                                                \
    "vmladav.s8 %[a2], q3, %q[w]\n\t vmladav.s8 %[b2], q3, %q[v]\n\t"                                                \
    "vmov %q[a][3], %q[a][1], %[a0], %[a2]\n\t vmov %q[b][3], %q[b][1], %[b0], %[b2]\n\t"
#define RESULTS                                                                                                        \
    "vcvt.f32.s32 %q[a], %q[a]\n\t vcvt.f32.s32 %q[b], %q[b]\n\t"                                                    \
    "vmul.f32 %q[a], %q[a], %[scale]\n\t vmul.f32 %q[b], %q[b], %[scale]\n\t"                                        \
    "vcvtn.s32.f32 %q[a], %q[a]\n\t vcvtn.s32.f32 %q[b], %q[b]\n\t vqmovnb.s32 %q[a], %q[a]\n\t"                    \
    "vqmovnt.s32 %q[a], %q[b]\n\t vqadd.s16 %q[a], %q[a], %[zero]\n\t vqmovnb.s16 %q[a], %q[a]\n\t"
#define TILE_SUMS                                                                                                      \
    [a0] "=&Te"(a0), [a2] "=&Te"(a2), [b0] "=&Te"(b0), [b2] "=&Te"(b2), [a] "=&w"(a), [b] "=&w"(b), [p] "+r"(p)
#define TILE_STEPS [x4] "i"(16 * stride), [x2] "i"(8 * stride), [x1] "i"(-12 * stride), [x3] "i"(-4 * stride)

/* `fours` times four outputs of each of two rows; `stored` says, byte by byte, which of them there are. */
typedef struct {
    const int8_t *weights, *lower; /* tiles */
    int32_t across, deep, strip, channels, bias, scale, zero; /* scale: of the float its bits */
    uint16x8_t offsets;
} tiles_t;

INLINE int8_t *depthwise_fours(const tiles_t *tiles, const plane_t *p, int8_t *out, int32_t fours, int32_t stored, int8x16_t w, int8x16_t v, const int32_t stride, const int single)
{
    const int32_t scale = tiles->scale, zero = tiles->zero, bias = tiles->bias, next = 4 * tiles->channels;
    const uint16x8_t offsets = tiles->offsets;
    int32_t a0, a2, b0, b2;
    int32x4_t a, b;
    if (single) {
        __asm volatile("vmsr p0, %[stored]\n\t wls lr, %[fours], 2f\n"
                       "1:\n\t" FOUR_TILES "vadd.i32 %q[a], %q[a], %[bias]\n\t vadd.i32 %q[b], %q[b], %[bias]\n\t" RESULTS
                       "vpst\n\t vstrbt.16 %q[a], [%[out], %q[offsets]]\n\t add %[out], %[next]\n\t le lr, 1b\n2:"
                       : TILE_SUMS, [out] "+r"(out)
                       : [w] "w"(w), [v] "w"(v), TILE_STEPS, [scale] "r"(scale), [zero] "r"(zero), [bias] "r"(bias),
                         [stored] "r"(stored), [fours] "r"(fours), [next] "r"(next), [offsets] "w"(offsets)
                       : "q2", "q3", "lr", "p0", "memory");
        return out;
    }
    for (const plane_t *first = p; fours > 0; fours--, first += 16 * stride, out += next) {
        int32x4_t upper = vdupq_n_s32(bias), lower = upper;
        const int8_t *here = tiles->weights, *below = tiles->lower;
        const plane_t *row = first;
        for (int32_t i = tiles->deep; i > 0; i--, row += 2 * tiles->strip) {
            p = row;
            for (int32_t j = tiles->across; j > 0; j--, here += TILE_BYTES, below += TILE_BYTES, p += TILE_BYTES - 16 * stride) {
                w = vld1q_s8(here), v = vld1q_s8(below);
                __asm volatile(FOUR_TILES : TILE_SUMS : [w] "w"(w), [v] "w"(v), TILE_STEPS : "q2", "q3", "memory");
                upper = vaddq_s32(upper, a), lower = vaddq_s32(lower, b);
            }
        }
        __asm(RESULTS : [a] "+w"(upper), [b] "+w"(lower) : [scale] "r"(scale), [zero] "r"(zero));
        vstrbq_scatter_offset_p_s16(out, offsets, vreinterpretq_s16_s32(upper), (mve_pred16_t)stored);
    }
    return out;
}

INLINE void depthwise_tiles(const depthwise_t *layer, plane_t *plane, int32_t channel, int8_t *output, int32_t output_row, const int32_t stride, const int single)
{
    const int32_t down = layer->stride_y == 1; /* whether a tile is for two rows */
    const int32_t height = layer->out_height, width = layer->out_width, whole = width >> 2;
    const uint32x4_t columns = vmulq_n_u32(vidupq_n_u32(0, 1), 0x10001u * layer->out_channels);
    int8_t *const weights = plane + layer->size;
    int8x16_t w = vdupq_n_s8(0), v = w;
    tiles_t tiles;
    tiles.across = (layer->kernel_width + 3) >> 2, tiles.deep = (layer->kernel_height + down + 3) >> 2;
    tiles.weights = weights, tiles.lower = weights + tiles.across * tiles.deep * TILE_BYTES;
    tiles.strip = layer->row, tiles.channels = layer->out_channels, tiles.bias = layer->bias[channel], tiles.zero = layer->out_zero;
    tiles.offsets = vreinterpretq_u16_u32(vaddq_n_u32(columns, (uint32_t)output_row << 16)); /* upper, lower, next column */
    memcpy(&tiles.scale, layer->scale + channel, sizeof tiles.scale);
    if (single)
        w = depthwise_one_tile(layer, channel), v = vreinterpretq_s8_s32(vshlq_n_s32(vreinterpretq_s32_s8(w), 8));
    else
        depthwise_tile_weights(layer, channel, tiles.across, down, weights, weights + tiles.across * tiles.deep * TILE_BYTES);
    plane += tiles.strip;
    for (int32_t left = height; left > 0; left -= 1 + down, output += (1 + down) * output_row, plane += tiles.strip) {
        const int32_t stored = down && left > 1 ? 0xFFFF : 0x3333;
        int8_t *out = output;
        out = depthwise_fours(&tiles, plane, out, whole, stored, w, v, stride, single);
        if (width & 3)
            depthwise_fours(&tiles, plane + 16 * whole * stride, out, 1, stored & ((1 << 4 * (width & 3)) - 1), w, v, stride, single);
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
#define depthwise_five_1 depthwise_wide_1
#define depthwise_five_2 depthwise_wide_2

#endif
