/* The largest of each window. */
NOINLINE void maxpool(const pool_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t channels = layer->channels;
    for (int32_t y = 0; y < layer->out_height; y++)
        for (int32_t x = 0; x < layer->out_width; x++, output += channels) {
            memset(output, -128, (size_t)channels);
            for (int32_t ky = 0; ky < layer->kernel_height; ky++)
                for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
                    const int32_t iy = y * layer->stride_y - layer->pad_top + ky * layer->dilation_y;
                    const int32_t ix = x * layer->stride_x - layer->pad_left + kx * layer->dilation_x;
                    const int8_t *data = input + (iy * layer->in_width + ix) * channels;
                    if (iy < 0 || iy >= layer->in_height || ix < 0 || ix >= layer->in_width) continue;
                    for (int32_t c = 0; c < channels; c++)
                        if (data[c] > output[c]) output[c] = data[c];
                }
        }
}
