/* Element by element the larger of both, into the first. */
INLINE void maxpool_larger(int8_t *most, const int8_t *data, int32_t count)
{
#if defined(KERNELS_HELIUM)
    for (; count > 0; count -= 16, most += 16, data += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)count);
        vstrbq_p_s8(most, vmaxq_s8(vldrbq_z_s8(most, some), vldrbq_z_s8(data, some)), some);
    }
#elif defined(KERNELS_DSP)
    for (; count >= 4; count -= 4, most += 4, data += 4) {
        uint32_t a, b, difference;
        memcpy(&a, most, 4), memcpy(&b, data, 4);
        __asm("ssub8 %[difference], %[a], %[b]\n\t sel %[a], %[a], %[b]" /* byte by byte: which is larger, and that one */
              : [a] "+r"(a), [difference] "=&r"(difference) : [b] "r"(b));
        memcpy(most, &a, 4);
    }
#endif
    for (; count > 0; count--, most++, data++)
        if (*data > *most) *most = *data;
}

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
                    if (iy < 0 || iy >= layer->in_height || ix < 0 || ix >= layer->in_width) continue;
                    maxpool_larger(output, input + (iy * layer->in_width + ix) * channels, channels);
                }
        }
}
