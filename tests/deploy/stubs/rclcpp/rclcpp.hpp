// What of ROS 2's client library examples/deploy/ros2 calls. spin() publishes what standard input says, a message per line: an empty
// line on `reset`, any other on `observation`, and runs the timer after each; what the node publishes goes to standard output.
#pragma once
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <std_msgs/msg/empty.hpp>
#include <std_msgs/msg/float32_multi_array.hpp>
#include <std_msgs/msg/float64_multi_array.hpp>
#include <string>

#define RCLCPP_ERROR(logger, ...) (std::fprintf(stderr, "%s: ", logger), std::fprintf(stderr, __VA_ARGS__))

namespace rclcpp {
inline std::function<void(const std_msgs::msg::Float32MultiArray &)> on_observation;
inline std::function<void(const std_msgs::msg::Empty &)> on_reset;
inline std::function<void()> on_timer;

template <class Message>
struct Publisher {
  using SharedPtr = std::shared_ptr<Publisher>;
  void publish(const Message &message) {
    for (double value : message.data) std::printf("%.9g ", value);
    std::puts("");
  }
};
template <class Message>
struct Subscription {
  using SharedPtr = std::shared_ptr<Subscription>;
};
struct TimerBase {
  using SharedPtr = std::shared_ptr<TimerBase>;
};

class Node {
 public:
  explicit Node(const std::string &name) : name_(name) {}
  const char *get_logger() const { return name_.c_str(); }
  template <class Message>
  typename Publisher<Message>::SharedPtr create_publisher(const std::string &, int) {
    return std::make_shared<Publisher<Message>>();
  }
  template <class Message, class Callback>
  typename Subscription<Message>::SharedPtr create_subscription(const std::string &, int, Callback callback) {
    if constexpr (std::is_same_v<Message, std_msgs::msg::Empty>)
      on_reset = callback;
    else
      on_observation = callback;
    return std::make_shared<Subscription<Message>>();
  }
  template <class Callback>
  TimerBase::SharedPtr create_wall_timer(std::chrono::microseconds, Callback callback) {
    on_timer = callback;
    return std::make_shared<TimerBase>();
  }

 private:
  std::string name_;
};

inline void init(int, char **) {}
inline void shutdown() {}
inline void spin(const std::shared_ptr<Node> &) {
  for (std::string line; std::getline(std::cin, line); on_timer()) {
    if (line.empty()) {
      on_reset({});
      continue;
    }
    std_msgs::msg::Float32MultiArray message;
    std::istringstream words(line);
    for (float value; words >> value;) message.data.push_back(value);
    on_observation(message);
  }
}
}  // namespace rclcpp
