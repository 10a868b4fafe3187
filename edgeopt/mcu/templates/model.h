/* @title@: @macs@ multiply-adds.

   Input:  int8 @input_axes@, @input_shape@; q stands for (q - MODEL_INPUT_ZERO) * MODEL_INPUT_SCALE
   Output: int8 @output_axes@, @output_shape@; likewise

   One inference at a time: the working memory is one static arena. There is no heap, and nothing to set up. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MODEL_INPUT_SIZE @input_size@
#define MODEL_OUTPUT_SIZE @output_size@
#define MODEL_INPUT_SCALE @input_scale@
#define MODEL_INPUT_ZERO (@input_zero@)
#define MODEL_OUTPUT_SCALE @output_scale@
#define MODEL_OUTPUT_ZERO (@output_zero@)

/* Bytes of the static arena. */
#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2) && !defined(MODEL_PLAIN_C) && defined(__OPTIMIZE__)
#define MODEL_ARENA_BYTES @arena_helium@
#else
#define MODEL_ARENA_BYTES @arena_pairs@
#endif

/* One inference. `input` is MODEL_INPUT_SIZE bytes and is only read; `output` takes MODEL_OUTPUT_SIZE. Returns 0. */
int model_run(const int8_t *input, int8_t *output);

/* A place for the input inside the arena, so that it takes no memory of its own. model_run(model_input(), ...) writes over
   it: fill it again for every inference. */
int8_t *model_input(void);

/* A real number as the input's nearest level. */
static inline int8_t model_quantize(float x)
{
    union { float f; int32_t i; } sum;
    x /= MODEL_INPUT_SCALE;
    x = x < -1024.0f ? -1024.0f : x > 1024.0f ? 1024.0f : x;
    sum.f = x + 12582912.0f; /* 1.5 * 2^23: the integer, ties to even, is in the low bits */
    sum.i = sum.i - 0x4B400000 + MODEL_INPUT_ZERO;
    return (int8_t)(sum.i < -128 ? -128 : sum.i > 127 ? 127 : sum.i);
}

/* The real number that an output stands for. */
static inline float model_dequantize(int8_t q) { return (float)(q - MODEL_OUTPUT_ZERO) * MODEL_OUTPUT_SCALE; }

#ifdef __cplusplus
}
#endif

#endif
