/* ---- add: two tensors on their own scales ---------------------------------------------------------------------------

   a * scale_a + (b * scale_b + offset), each sum fused with its product. `b` may be shorter and repeat. */

typedef struct {
    float scale_a, scale_b, offset;
    int32_t size, period; /* elements of a, of b */
} add_t;

#if defined(KERNELS_HELIUM)
/* Eight sums a round, as two vectors of four, so that none waits for the one before; then fours, the last one in part. */
INLINE void add_run(const add_t *layer, const int8_t *a, const int8_t *b, int8_t *output, int32_t count)
{
    const float32x4_t scales_b = vdupq_n_f32(layer->scale_b);
    int32_t scale_a, offset;
    memcpy(&scale_a, &layer->scale_a, 4), memcpy(&offset, &layer->offset, 4); /* their bits */
    __asm volatile("wls lr, %[rounds], 2f\n"
                   "1:\n\t vldrb.s32 q0, [%[a]], #4\n\t vldrb.s32 q1, [%[b]], #4\n\t"
                   "vldrb.s32 q2, [%[a]], #4\n\t vldrb.s32 q3, [%[b]], #4\n\t"
                   "vcvt.f32.s32 q0, q0\n\t vcvt.f32.s32 q1, q1\n\t vcvt.f32.s32 q2, q2\n\t vcvt.f32.s32 q3, q3\n\t"
                   "vfmas.f32 q1, %q[scales_b], %[offset]\n\t vfmas.f32 q3, %q[scales_b], %[offset]\n\t"
                   "vfma.f32 q1, q0, %[scale_a]\n\t vfma.f32 q3, q2, %[scale_a]\n\t"
                   "vcvtn.s32.f32 q1, q1\n\t vcvtn.s32.f32 q3, q3\n\t"
                   "vqmovnb.s32 q1, q1\n\t vqmovnb.s32 q3, q3\n\t vqmovnb.s16 q1, q1\n\t vqmovnb.s16 q3, q3\n\t"
                   "vstrb.32 q1, [%[output]], #4\n\t vstrb.32 q3, [%[output]], #4\n\t le lr, 1b\n2:"
                   : [a] "+l"(a), [b] "+l"(b), [output] "+l"(output)
                   : [rounds] "r"(count >> 3), [scales_b] "w"(scales_b), [offset] "r"(offset), [scale_a] "r"(scale_a)
                   : "q0", "q1", "q2", "q3", "lr", "memory");
    for (count &= 7; count > 0; count -= 4, a += 4, b += 4, output += 4) {
        const mve_pred16_t some = vctp32q((uint32_t)count);
        const float32x4_t a0 = vcvtq_f32_s32(vldrbq_z_s32(a, some)), b0 = vcvtq_f32_s32(vldrbq_z_s32(b, some));
        int32x4_t sums = vcvtnq_s32_f32(vfmaq_n_f32(vfmasq_n_f32(b0, scales_b, layer->offset), a0, layer->scale_a));
        __asm("vqmovnb.s32 %q0, %q0\n\t vqmovnb.s16 %q0, %q0" : "+w"(sums)); /* to 16 bits, then to 8 */
        vstrbq_p_s32(output, sums, some);
    }
}
#else
INLINE void add_run(const add_t *layer, const int8_t *a, const int8_t *b, int8_t *output, int32_t count)
{
    const float scale_a = layer->scale_a, scale_b = layer->scale_b, offset = layer->offset;
#if defined(KERNELS_DSP) && defined(__ARM_FEATURE_FMA)
    for (; count > 1; count -= 2) { /* two sums: a pair of registers goes to the FPU, and back, in one instruction */
        int32_t x, y;
        __asm volatile("ldrsb %[x], [%[a]], #1\n\t ldrsb %[y], [%[a]], #1\n\t vmov s12, s13, %[x], %[y]\n\t"
                       "ldrsb %[x], [%[b]], #1\n\t ldrsb %[y], [%[b]], #1\n\t vmov s14, s15, %[x], %[y]\n\t"
                       "vcvt.f32.s32 s12, s12\n\t vcvt.f32.s32 s13, s13\n\t vcvt.f32.s32 s14, s14\n\t vcvt.f32.s32 s15, s15\n\t"
                       "vmov.f32 s10, %[offset]\n\t vmov.f32 s11, %[offset]\n\t"
                       "vfma.f32 s10, s14, %[scale_b]\n\t vfma.f32 s11, s15, %[scale_b]\n\t"
                       "vfma.f32 s10, s12, %[scale_a]\n\t vfma.f32 s11, s13, %[scale_a]\n\t"
                       "vcvtr.s32.f32 s10, s10\n\t vcvtr.s32.f32 s11, s11\n\t vmov %[x], %[y], s10, s11\n\t"
                       "ssat %[x], #8, %[x]\n\t ssat %[y], #8, %[y]\n\t"
                       "strb %[x], [%[output]], #1\n\t strb %[y], [%[output]], #1"
                       : [x] "=&r"(x), [y] "=&r"(y), [a] "+r"(a), [b] "+r"(b), [output] "+r"(output)
                       : [scale_a] "t"(scale_a), [scale_b] "t"(scale_b), [offset] "t"(offset)
                       : "s10", "s11", "s12", "s13", "s14", "s15", "memory");
    }
#endif
    for (; count > 0; count--) {
        const float inner = fused_multiply_add((float)*b++, scale_b, offset);
        *output++ = saturate(nearest(fused_multiply_add((float)*a++, scale_a, inner)));
    }
}
#endif

NOINLINE void add(const add_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t period = layer->period;
    for (int32_t done = 0; done < layer->size; done += period, a += period, output += period) add_run(layer, a, b, output, period);
}
