// A policy on an emulated chip without an operating system: acts on the observations of observations.h and prints the bits of its
// actions, one control step per line, and then the instructions that an action takes on average.
#include <stdint.h>
#include <string.h>

#include "observations.h"
#include "policy.h"

static void act(void);
void begin(void);

#if defined(__riscv)  // virt: machine mode, with the floating-point unit switched on
__asm__(".section .boot,\"ax\"\n .globl start\nstart:\n li t0, 0x2000\n csrs mstatus, t0\n li sp, 0x80380000\n call begin\n");
void begin(void) { act(); }
static void call_host(long operation, const void *value) {
  register long a0 __asm__("a0") = operation;
  register const void *a1 __asm__("a1") = value;
  __asm__ volatile(
      ".option push\n .option norvc\n .balign 4\n slli x0, x0, 0x1f\n ebreak\n srai x0, x0, 7\n .option pop"
      : "+r"(a0) : "r"(a1) : "memory");
}
enum { PER_COUNT = 1, BITS = 32 };
static void start_counter(void) {}
static uint32_t count(void) {
  uint32_t number;
  __asm__ volatile("csrr %0, minstret" : "=r"(number));
  return number;
}
#else  // mps2-an386: a Cortex-M4 of 25 MHz; with -icount shift=0 an instruction takes a nanosecond, and a tick of SysTick 40
__asm__(".section .boot,\"a\"\n .globl start\nstart:\n .word 0x00380000\n .word begin\n");
static volatile uint32_t *const systick = (volatile uint32_t *)0xE000E010;
void begin(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xF00000;  // the floating-point unit
  __asm__ volatile("dsb\n isb" ::: "memory");
  act();
}
static void call_host(long operation, const void *value) {
  register long r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = value;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}
enum { PER_COUNT = 40, BITS = 24 };
static void start_counter(void) { systick[1] = 0xFFFFFF, systick[2] = 0, systick[0] = 5; }
static uint32_t count(void) { return 0xFFFFFF - systick[2]; }
#endif

static void print_number(uint32_t number, const char *end) {
  char text[32];
  for (int i = 0; i < 8; i++) text[i] = "0123456789abcdef"[number >> (28 - 4 * i) & 15];
  strcpy(text + 8, end);
  call_host(4, text);  // SYS_WRITE0
}

static policy_state state;

static void act(void) {
  float action[POLICY_ACTIONS];
  uint32_t spent = 0;
  policy_reset(&state);
  for (int step = 0; step < STEPS; step++) {
    start_counter();
    const uint32_t before = count();
    policy_step(&state, observations[step], action);
    spent += ((count() - before) & (0xFFFFFFFFu >> (32 - BITS))) * PER_COUNT;
    for (int i = 0; i < POLICY_ACTIONS; i++) {
      uint32_t bits;
      memcpy(&bits, &action[i], sizeof bits);
      print_number(bits, i + 1 < POLICY_ACTIONS ? " " : "\n");
    }
  }
  print_number(spent / STEPS, " instructions\n");
  call_host(0x18, (const void *)0x20026);  // SYS_EXIT: the application ends
  for (;;) {
  }
}
