#if !defined(KERNELS_HELIUM) && !defined(KERNELS_DSP)

/* One row of outputs, two channels at a time. */
static void conv_row(const conv_t *layer, const row_t *const *runs, int8_t *output, row_t *window)
{
    const int32_t channels = layer->out_channels, count = layer->kernel_height * layer->runs_per_row;
    const int8_t *weights = layer->weights;
    (void)window;
    for (int32_t c = 0; c < channels; c += 2, weights += 2 * count * layer->run) {
        for (int32_t x = 0; x < layer->out_width; x++) {
            int32_t sum0 = layer->bias[c], sum1 = layer->bias[c + 1];
            const int8_t *w = weights;
            for (int32_t r = 0; r < count; r++) {
                const row_t *data = runs[r] + x * layer->step;
                for (int32_t k = 0; k < layer->run; k++, w += 2) {
                    sum0 += data[k] * w[0];
                    sum1 += data[k] * w[1];
                }
            }
            output[x * channels + c] = conv_result(layer, sum0, layer->scale[c]);
            if (c + 1 < channels) output[x * channels + c + 1] = conv_result(layer, sum1, layer->scale[c + 1]);
        }
    }
}

#endif
