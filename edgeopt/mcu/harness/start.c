/* Start-up for Cortex-M in QEMU. */
#include <stdint.h>

extern uint32_t data_begin, data_end, data_load, bss_begin, bss_end, stack_top;
int main(void);
void leave(int code);

void reset(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: floating point and vectors on */
    __asm volatile("dsb\n\tisb");
    for (uint32_t *to = &data_begin, *from = &data_load; to < &data_end;) *to++ = *from++;
    for (uint32_t *to = &bss_begin; to < &bss_end;) *to++ = 0;
    leave(main());
}

static void fault(void) { leave(70); }

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault};
