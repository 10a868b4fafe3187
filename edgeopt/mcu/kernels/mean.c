/* ---- mean: the average of a whole image, for each channel ------------------------------------------------------- */

typedef struct {
    float scale; /* input / (pixels * output) */
    int32_t pixels, channels;
    int8_t in_zero, out_zero;
} mean_t;

INLINE int8_t mean_result(const mean_t *layer, int32_t sum)
{
    return saturate(nearest_scaled(sum - layer->pixels * layer->in_zero, layer->scale) + layer->out_zero);
}

NOINLINE void mean(const mean_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t channels = layer->channels, pixels = layer->pixels;
    int32_t c = 0;
    for (; c + 4 <= channels; c += 4) {
        const int8_t *data = input + c;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int32_t i = 0; i < pixels; i++, data += channels) {
            s0 += data[0], s1 += data[1];
            s2 += data[2], s3 += data[3];
        }
        *output++ = mean_result(layer, s0);
        *output++ = mean_result(layer, s1);
        *output++ = mean_result(layer, s2);
        *output++ = mean_result(layer, s3);
    }
    for (; c < channels; c++) {
        const int8_t *data = input + c;
        int32_t sum = 0;
        for (int32_t i = 0; i < pixels; i++, data += channels) sum += *data;
        *output++ = mean_result(layer, sum);
    }
}
