// What of Arduino examples/deploy/platformio calls: a serial port that is standard input and output. The program ends with its input.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>

void setup();
void loop();

struct SerialPort {
  void begin(long) {}
  void setTimeout(unsigned long) {}
  int read() {
    const int byte = std::getchar();
    if (byte == EOF) std::exit(0);
    return byte;
  }
  std::size_t readBytes(char *values, std::size_t count) { return std::fread(values, 1, count, stdin); }
  std::size_t write(const std::uint8_t *values, std::size_t count) { return std::fwrite(values, 1, count, stdout); }
};
inline SerialPort Serial;
