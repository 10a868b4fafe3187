/* ---- depthwise: every output channel reads one input channel -------------------------------------------------------------

   Channel by channel: the channel is copied out of the image into a plane of its own, zero points around it, where its
   neighbours in x are neighbours in memory and one instruction multiplies several; then the plane is convolved.

   Nobody reads a channel once it is in its plane. So the output may take the input's place: results go where the same
   pixel of the input was, and if there are fewer pixels in a row than there were, rows are moved together at the end. */

#if defined(KERNELS_HELIUM)
typedef int8_t plane_t;
#else
typedef int16_t plane_t;
#endif

typedef struct depthwise_t {
    const int8_t *weights; /* [channels][kernel height][kernel width] */
    const int32_t *bias;   /* the input's zero point is in it */
    const float *scale;    /* input * weight / output, for each channel */
    void (*plane_kernel)(const struct depthwise_t *, plane_t *plane, int32_t channel, int8_t *output, int32_t output_row);
    uint16_t in_height, in_width, in_channels;
    uint16_t out_height, out_width, out_channels;
    uint16_t row;  /* elements of a row of the plane, or of a strip */
    uint32_t size; /* elements of the plane; the weights of one channel follow, as the kernel wants them */
    uint16_t weight_bytes;
    uint8_t kernel_height, kernel_width, dilation_y, dilation_x, stride_y, stride_x, pad_top, pad_left;
    uint8_t strips; /* Helium: the plane lies in strips */
    int8_t in_zero, out_zero;
} depthwise_t;

#if defined(KERNELS_HELIUM)
static void depthwise_load_strips(const depthwise_t *layer, const int8_t *input, plane_t *plane);
#endif

#if defined(__GNUC__)
#define SOME_MODELS static __attribute__((unused)) /* kernels of a plane: those that no layer has are left out */
#else
#define SOME_MODELS static
#endif

INLINE int8_t depthwise_result(int32_t sum, float scale, int32_t zero)
{
    return saturate(nearest_scaled(sum, scale) + zero);
}

/* One channel of the image into the plane. */
INLINE void depthwise_load(const depthwise_t *layer, const int8_t *input, plane_t *plane)
{
    const int32_t channels = layer->in_channels, width = layer->in_width;
#if defined(KERNELS_HELIUM)
    if (layer->strips) {
        depthwise_load_strips(layer, input, plane);
        return;
    }
#endif
    plane_t *to = plane + layer->pad_top * layer->row + layer->pad_left;
    for (int32_t y = layer->in_height; y > 0; y--, to += layer->row - width) {
        int32_t left = width;
#if defined(KERNELS_DSP)
        for (; left >= 4; left -= 4) {
            int32_t a, b, c, d;
            __asm volatile("ldrsb %[a], [%[from]]\n\t ldrsb %[b], [%[from], %[once]]\n\t add %[from], %[from], %[once], lsl #1\n\t"
                           "ldrsb %[c], [%[from]]\n\t ldrsb %[d], [%[from], %[once]]\n\t add %[from], %[from], %[once], lsl #1\n\t"
                           "pkhbt %[a], %[a], %[b], lsl #16\n\t pkhbt %[c], %[c], %[d], lsl #16\n\t"
                           "str %[a], [%[to]], #4\n\t str %[c], [%[to]], #4"
                           : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d), [from] "+r"(input), [to] "+r"(to)
                           : [once] "r"(channels) : "memory");
        }
#endif
        for (; left > 0; left--, input += channels) *to++ = *input;
    }
}

/* `count` bytes to a lower address, which may be nearer than that. */
INLINE void depthwise_move(int8_t *to, const int8_t *from, int32_t count)
{
#if defined(KERNELS_HELIUM)
    for (; count > 0; count -= 16, from += 16, to += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)count);
        vstrbq_p_s8(to, vldrbq_z_s8(from, some), some);
    }
#else
    for (; count >= 4; count -= 4, from += 4, to += 4) {
        uint32_t word;
        memcpy(&word, from, 4);
        memcpy(to, &word, 4);
    }
    for (; count > 0; count--) *to++ = *from++;
#endif
}

NOINLINE void depthwise(const depthwise_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    plane_t *const plane = (plane_t *)(void *)scratch;
    const int32_t channels = layer->out_channels, each = channels / layer->in_channels, written = layer->out_width * channels;
    const int32_t in_size = layer->in_height * layer->in_width * layer->in_channels, out_size = layer->out_height * written;
    const intptr_t ahead = (intptr_t)((uintptr_t)input - (uintptr_t)output);
    const int over = ahead < out_size && -ahead < in_size; /* the output lies over the input, and not after its beginning */
    const int32_t row = over ? layer->in_width * channels : written;
    int8_t *const made = over ? output + ahead : output;
    for (uint32_t i = 0; i < layer->size; i++) plane[i] = layer->in_zero;
    memset(plane + layer->size, 0, layer->weight_bytes);
    for (int32_t c = 0; c < channels; c++) {
        if (c % each == 0) depthwise_load(layer, input + c / each, plane);
        layer->plane_kernel(layer, plane, c, made + c, row);
    }
    if (made != output || row != written)
        for (int32_t y = 0; y < layer->out_height; y++) depthwise_move(output + y * written, made + y * row, written);
}
