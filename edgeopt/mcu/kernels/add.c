/* ---- add: two tensors on their own scales ---------------------------------------------------------------------------

   a * scale_a + (b * scale_b + offset), each sum fused with its product. `b` may be shorter and repeat. */

typedef struct {
    float scale_a, scale_b, offset;
    int32_t size, period; /* elements of a, of b */
} add_t;

#if defined(KERNELS_HELIUM)
/* The first `count` of four sums, rounded and saturated. */
INLINE void add_store(int8_t *output, float32x4_t sums, int32_t count)
{
    int32x4_t value = vcvtnq_s32_f32(sums);
    __asm("vqmovnb.s32 %q0, %q0\n\t vqmovnb.s16 %q0, %q0" : "+w"(value)); /* to 16 bits, then to 8 */
    if (count >= 4)
        vstrbq_s32(output, value);
    else
        vstrbq_p_s32(output, value, vctp32q((uint32_t)count));
}
#endif

NOINLINE void add(const add_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const float scale_a = layer->scale_a, scale_b = layer->scale_b, offset = layer->offset;
    for (int32_t done = 0; done < layer->size; done += layer->period) {
        const int8_t *second = b;
        int32_t left = layer->period;
#if defined(KERNELS_HELIUM)
        const float32x4_t scales_b = vdupq_n_f32(scale_b);
        for (int32_t rounds = left >> 3; rounds > 0; rounds--, a += 8, second += 8, output += 8) {
            const float32x4_t a0 = vcvtq_f32_s32(vldrbq_s32(a)), b0 = vcvtq_f32_s32(vldrbq_s32(second));
            const float32x4_t a1 = vcvtq_f32_s32(vldrbq_s32(a + 4)), b1 = vcvtq_f32_s32(vldrbq_s32(second + 4));
            add_store(output, vfmaq_n_f32(vfmasq_n_f32(b0, scales_b, offset), a0, scale_a), 4);
            add_store(output + 4, vfmaq_n_f32(vfmasq_n_f32(b1, scales_b, offset), a1, scale_a), 4);
        }
        left &= 7;
        for (; left > 0; left -= 4, a += 4, second += 4, output += 4) {
            const mve_pred16_t some = vctp32q((uint32_t)left);
            const float32x4_t a0 = vcvtq_f32_s32(vldrbq_z_s32(a, some)), b0 = vcvtq_f32_s32(vldrbq_z_s32(second, some));
            add_store(output, vfmaq_n_f32(vfmasq_n_f32(b0, scales_b, offset), a0, scale_a), left);
        }
        a += left, output += left;
#else
        for (; left > 0; left--) {
            const float inner = fused_multiply_add((float)*second++, scale_b, offset);
            *output++ = saturate(nearest(fused_multiply_add((float)*a++, scale_a, inner)));
        }
#endif
    }
}
