#if defined(KERNELS_HELIUM)

/* Copies the windows of two neighbouring pixels, run by run, to where each is one piece. */
INLINE void conv_collect(
    const row_t *const *runs, int32_t count, int32_t run, int32_t at, int32_t distance, row_t *first, row_t *second)
{
    const int32_t vectors = (run + 15) >> 4, excess = -run & 15; /* the next run, or slack, takes what is too much */
    for (; count > 0; count--, first -= excess, second -= excess) {
        const row_t *from = *runs++ + at, *other = from + distance;
        __asm volatile("dls lr, %[vectors]\n"
                       "1:\n\t vldrb.8 q0, [%[from]], #16\n\t vldrb.8 q1, [%[other]], #16\n\t"
                       "vstrb.8 q0, [%[first]], #16\n\t vstrb.8 q1, [%[second]], #16\n\t le lr, 1b"
                       : [from] "+&r"(from), [other] "+&r"(other), [first] "+&r"(first), [second] "+&r"(second)
                       : [vectors] "r"(vectors)
                       : "lr", "q0", "q1", "memory");
    }
}

/* One row of outputs: two windows with four channels at a time, 16 elements of each a step, which is 14 instructions for
   128 multiplications. It is written out because the sums have to sit in the eight even registers, so that the compiler
   would spill them. Every instruction of a step is 4 bytes long; four steps make a round, and what is not whole rounds
   enters the first one so many bytes after its beginning. Where the width is odd, the last pixel is computed twice. */
#define STEP                                                                                                           \
    "vldrb.8 q0, [%[p]], #16\n\t vldrb.8 q2, [%[w]], #16\n\t vmladava.s8 %[a0], q0, q2\n\t"                            \
    "vldrb.8 q1, [%[q]], #16\n\t vmladava.s8 %[b0], q1, q2\n\t vldrb.8 q3, [%[w]], #16\n\t"                            \
    "vmladava.s8 %[a1], q0, q3\n\t vldrb.8 q2, [%[w]], #16\n\t vmladava.s8 %[b1], q1, q3\n\t"                          \
    "vmladava.s8 %[a2], q0, q2\n\t vldrb.8 q3, [%[w]], #16\n\t vmladava.s8 %[b2], q1, q2\n\t"                          \
    "vmladava.s8 %[a3], q0, q3\n\t vmladava.s8 %[b3], q1, q3\n\t"
#define STEP_BYTES 56

static void conv_row(const conv_t *layer, const row_t *const *runs, int8_t *output, row_t *window)
{
    const int32_t channels = layer->out_channels, zero = layer->out_zero, size = layer->window, step = layer->step;
    const int32_t count = layer->kernel_height * layer->runs_per_row, run = layer->run;
    const int32_t skip = (-size / 16 & 3) * STEP_BYTES;
    const int32_t scales = (int32_t)((uintptr_t)layer->scale - (uintptr_t)layer->bias);
    for (int32_t left = layer->out_width, at = 0; left > 0; left -= 2, at += 2 * step) {
        const int32_t distance = left > 1 ? step : 0, other = left > 1 ? channels : 0;
        const row_t *const first = count == 1 ? runs[0] + at : window;
        const row_t *const second = count == 1 ? first + distance : window + size + 16;
        const row_t *const end = first + size, *p, *q;
        const int8_t *w = layer->weights;
        const int32_t *bias = layer->bias;
        int32_t a0, a1, a2, a3, b0, b1, b2, b3, t, missing = channels;
        if (count > 1) conv_collect(runs, count, run, at, distance, window, window + size + 16);
        __asm volatile(
            "1:\n\t ldrd %[a0], %[a1], [%[bias]], #8\n\t ldrd %[a2], %[a3], [%[bias]], #8\n\t"
            "mov %[b0], %[a0]\n\t mov %[b1], %[a1]\n\t mov %[b2], %[a2]\n\t mov %[b3], %[a3]\n\t"
            "ldr %[p], %[first]\n\t ldr %[q], %[second]\n\t"
            "ldr %[t], %[skip]\n\t add pc, %[t]\n\t nop\n\t" /* pc is 4 bytes ahead: after the nop */
            "2:\n\t" STEP STEP STEP STEP "ldr %[t], %[end]\n\t cmp %[p], %[t]\n\t blo 2b\n\t"
            "ldr %[t], %[scales]\n\t add %[t], %[bias]\n\t vldrw.32 q2, [%[t], #-16]\n\t"
            "vmov q0[2], q0[0], %[a0], %[a2]\n\t vmov q0[3], q0[1], %[a1], %[a3]\n\t"
            "vmov q1[2], q1[0], %[b0], %[b2]\n\t vmov q1[3], q1[1], %[b1], %[b3]\n\t"
            "vcvt.f32.s32 q0, q0\n\t vcvt.f32.s32 q1, q1\n\t vmul.f32 q0, q0, q2\n\t vmul.f32 q1, q1, q2\n\t"
            "vcvtn.s32.f32 q0, q0\n\t vcvtn.s32.f32 q1, q1\n\t"
            "ldr %[t], %[zero]\n\t vadd.i32 q0, q0, %[t]\n\t vadd.i32 q1, q1, %[t]\n\t"
            "vqmovnb.s32 q0, q0\n\t vqmovnb.s32 q1, q1\n\t vqmovnb.s16 q0, q0\n\t vqmovnb.s16 q1, q1\n\t"
            "ldr %[p], %[other]\n\t add %[p], %[out]\n\t ldr %[t], %[missing]\n\t vctp.32 %[t]\n\t"
            "vpstt\n\t vstrbt.32 q1, [%[p]]\n\t vstrbt.32 q0, [%[out]], #4\n\t"
            "subs %[t], #4\n\t str %[t], %[missing]\n\t bgt 1b"
            : [a0] "=&Te"(a0), [a1] "=&Te"(a1), [a2] "=&Te"(a2), [a3] "=&Te"(a3), [b0] "=&Te"(b0), [b1] "=&Te"(b1),
              [b2] "=&Te"(b2), [b3] "=&Te"(b3), [p] "=&r"(p), [q] "=&r"(q), [t] "=&r"(t), [w] "+&r"(w),
              [bias] "+&r"(bias), [out] "+&r"(output), [missing] "+m"(missing)
            : [first] "m"(first), [second] "m"(second), [end] "m"(end), [skip] "m"(skip), [scales] "m"(scales),
              [zero] "m"(zero), [other] "m"(other)
            : "q0", "q1", "q2", "q3", "p0", "cc", "memory");
        output += other - (-channels & 3);
    }
}

#endif
