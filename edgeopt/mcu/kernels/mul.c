/* ---- mul: the product of two tensors; `b` may be shorter and repeat (a factor for each channel) ---------------------- */

typedef struct {
    float scale;
    int32_t size, period; /* elements of a, of b */
    int8_t a_zero, b_zero, out_zero;
} mul_t;

INLINE void mul_run(const mul_t *layer, const int8_t *a, const int8_t *b, int8_t *output, int32_t count)
{
    const int32_t a_zero = layer->a_zero, b_zero = layer->b_zero;
    const float zero = layer->out_zero, scale = layer->scale;
#if defined(KERNELS_HELIUM)
    for (; count > 0; count -= 4, a += 4, b += 4, output += 4) {
        const mve_pred16_t some = vctp32q((uint32_t)count);
        const int32x4_t a0 = vsubq_n_s32(vldrbq_z_s32(a, some), a_zero), b0 = vsubq_n_s32(vldrbq_z_s32(b, some), b_zero);
        const float32x4_t product = vmulq_n_f32(vcvtq_f32_s32(vmulq_s32(a0, b0)), scale);
        int32x4_t values = vcvtnq_s32_f32(vaddq_n_f32(product, zero));
        __asm("vqmovnb.s32 %q0, %q0\n\t vqmovnb.s16 %q0, %q0" : "+w"(values)); /* to 16 bits, then to 8 */
        vstrbq_p_s32(output, values, some);
    }
#else
    for (; count > 0; count--) {
        const float product = (float)((*a++ - a_zero) * (*b++ - b_zero)) * scale;
        *output++ = saturate(nearest(product + zero));
    }
#endif
}

NOINLINE void mul(const mul_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t period = layer->period;
    for (int32_t done = 0; done < layer->size; done += period, a += period, output += period) mul_run(layer, a, b, output, period);
}
