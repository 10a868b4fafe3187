/* ---- conv: convolutions and dense layers ----------------------------------------------------------------------------

   The rows under the window are kept in a ring, zero points around them, and every output is a dot product of a few
   contiguous runs of that ring with weights that lie in the order they are read. The input is not needed once its rows
   are in the ring, so the output may take its place.

   Weights are packed for the core:
     pairs of channels   [channels / 2][k][2]            DSP and plain C; the ring holds int16
     fours of channels   [channels / 4][k / 16][4][16]   Helium; the ring holds int8
   where k counts through the runs. Zero weights pad each run to a multiple of 4, or all of them together to one of 16. */

#if defined(KERNELS_HELIUM)
typedef int8_t row_t;
#else
typedef int16_t row_t;
#endif

typedef struct conv_t {
    const int8_t *weights;
    const int32_t *bias; /* the input's zero point is in it */
    const float *scale;  /* input * weight / output, for each channel */
    void (*row_kernel)(const struct conv_t *, const row_t *const *runs, int8_t *output, row_t *window);
    uint16_t in_height, in_width, in_channels;
    uint16_t out_height, out_width, out_channels;
    uint8_t kernel_height, dilation, stride, pad_top, pad_left;
    uint8_t runs_per_row; /* 1; a window with gaps between its columns has one for each column */
    uint8_t pointwise;    /* 1x1: the ring holds the pixels that are read, and no others */
    uint8_t stride_x;
    uint16_t pixel;       /* elements of a pixel in the ring */
    uint16_t step;        /* elements from one output's window to the next */
    uint16_t row;         /* elements of a row in the ring */
    uint16_t run;         /* elements of a run */
    uint16_t window;      /* Helium: elements of all runs */
    uint16_t run_gap;     /* elements from a run to the next in a row */
    int8_t in_zero, out_zero;
} conv_t;

INLINE int8_t conv_result(const conv_t *layer, int32_t sum, float scale)
{
    return saturate(nearest_scaled(sum, scale) + layer->out_zero);
}

/* int8 to the ring's type. */
INLINE void widen(row_t *to, const int8_t *from, int32_t count)
{
#if defined(KERNELS_HELIUM) /* memcpy of a small C library copies bytes */
    for (; count >= 16; count -= 16, from += 16, to += 16) vst1q_s8(to, vld1q_s8(from));
    if (count > 0) vstrbq_p_s8(to, vld1q_z_s8(from, vctp8q((uint32_t)count)), vctp8q((uint32_t)count));
#elif defined(KERNELS_DSP)
    for (; count >= 4; count -= 4, from += 4, to += 4) {
        uint32_t word, even, odd;
        memcpy(&word, from, 4);
        __asm("sxtb16 %0, %1" : "=r"(even) : "r"(word));
        __asm("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(word));
        __asm("pkhbt %0, %1, %2, lsl #16" : "=r"(word) : "r"(even), "r"(odd));
        __asm("pkhtb %0, %1, %2, asr #16" : "=r"(odd) : "r"(odd), "r"(even));
        memcpy(to, &word, 4);
        memcpy(to + 2, &odd, 4);
    }
    for (; count > 0; count--) *to++ = *from++;
#else
    for (int32_t i = 0; i < count; i++) to[i] = from[i];
#endif
}

INLINE void fill(row_t *to, row_t value, int32_t count)
{
#if defined(KERNELS_HELIUM)
    for (; count > 0; count -= 16, to += 16) vstrbq_p_s8(to, vdupq_n_s8(value), vctp8q((uint32_t)count));
#else
    for (int32_t i = 0; i < count; i++) to[i] = value;
#endif
}

#if defined(CONV_ALTERNATE) && !defined(KERNELS_HELIUM)
/* The pixels of image row `y` that a 1x1 convolution reads. For DSP they are in blocks of three, four elements of each
   in turn, so that neighbours are 4 elements apart in every layer. */
static void conv_load_pointwise(const conv_t *layer, const int8_t *input, int32_t y, row_t *to)
{
    const int32_t channels = layer->in_channels, run = layer->run;
    input += y * layer->in_width * channels;
    for (int32_t x = 0; x < layer->out_width; x++, input += layer->stride_x * channels) {
#if defined(KERNELS_DSP)
        const int32_t apart = 12;
        row_t *place = to + x / 3 * 3 * run + x % 3 * 4;
#else
        const int32_t apart = 4;
        row_t *place = to + x * run;
#endif
        int32_t c = 0;
        for (; c + 4 <= channels; c += 4, place += apart) widen(place, input + c, 4);
        for (; c < channels; c++) *place++ = input[c];
    }
}
#endif

/* Image row `y` to its place in the ring; rows outside of the image hold the zero point. */
static void conv_load(const conv_t *layer, const int8_t *input, int32_t y, row_t *to)
{
    const int32_t width = layer->in_width, channels = layer->in_channels, pixel = layer->pixel;
#if defined(CONV_ALTERNATE) && !defined(KERNELS_HELIUM)
    if (layer->pointwise) {
        conv_load_pointwise(layer, input, y, to);
        return;
    }
#endif
    to += layer->pad_left * pixel;
    if (y < 0 || y >= layer->in_height) {
        fill(to, layer->in_zero, width * pixel);
        return;
    }
    input += y * width * channels;
    if (pixel == channels) {
        widen(to, input, width * channels);
        return;
    }
    for (int32_t x = 0; x < width; x++, input += channels, to += pixel)
        for (int32_t c = 0; c < channels; c++) to[c] = input[c];
}

NOINLINE void conv(const conv_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    row_t *const ring = (row_t *)(void *)scratch;
    const row_t *runs[CONV_MAX_RUNS];
    const int32_t rows = (layer->kernel_height - 1) * layer->dilation + 1;
    int32_t next = 0; /* the next row to load, counted from the first row of padding */
    if (!layer->pointwise) fill(ring, layer->in_zero, rows * layer->row);
    for (int32_t y = 0; y < layer->out_height; y++) {
        const int32_t first = y * layer->stride;
        int32_t count = 0;
        for (next = larger(next, first); next < first + rows; next++)
            conv_load(layer, input, next - layer->pad_top, ring + next % rows * layer->row);
        for (int32_t k = 0; k < layer->kernel_height; k++) {
            const row_t *row = ring + (first + k * layer->dilation) % rows * layer->row;
            for (int32_t i = 0; i < layer->runs_per_row; i++, row += layer->run_gap) runs[count++] = row;
        }
        layer->row_kernel(layer, runs, output, ring + rows * layer->row);
        output += layer->out_width * layer->out_channels;
    }
}

