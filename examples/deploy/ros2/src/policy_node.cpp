// A ROS 2 node. Every POLICY_PERIOD_US microseconds it takes the latest message of `observation`, in the order of policy.h, and publishes the
// action on `commands`, which forward controllers of ros2_control read. A message on `reset` begins an episode. If the policy observes its last
// action (POLICY_LAST_ACTION), the node fills it in; the values of the message at its place are ignored.
#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <rclcpp/rclcpp.hpp>
#include <std_msgs/msg/empty.hpp>
#include <std_msgs/msg/float32_multi_array.hpp>
#include <std_msgs/msg/float64_multi_array.hpp>

#include "policy.h"

#ifndef POLICY_PERIOD_US
#error "policy.h names no control period: define POLICY_PERIOD_US"
#endif

class PolicyNode : public rclcpp::Node {
 public:
  PolicyNode() : Node("policy") {
    policy_reset(&state_);
    commands_ = create_publisher<std_msgs::msg::Float64MultiArray>("commands", 1);
    observations_ = create_subscription<std_msgs::msg::Float32MultiArray>(
        "observation", 1, [this](const std_msgs::msg::Float32MultiArray &message) { take(message); });
    resets_ = create_subscription<std_msgs::msg::Empty>("reset", 1, [this](const std_msgs::msg::Empty &) { reset(); });
    timer_ = create_wall_timer(std::chrono::microseconds(POLICY_PERIOD_US), [this] { step(); });
  }

 private:
  void take(const std_msgs::msg::Float32MultiArray &message) {
    if (message.data.size() != observation_.size()) {
      RCLCPP_ERROR(get_logger(), "observation: %zu values given; allowed: %zu", message.data.size(), observation_.size());
      return;
    }
    std::copy(message.data.begin(), message.data.end(), observation_.begin());
    is_new_ = true;
  }

  void reset() {
    policy_reset(&state_);
    is_new_ = false;
  }

  void step() {
    if (!is_new_) return;  // no command without a new observation: the controller's own timeout stops the robot
    is_new_ = false;
#ifdef POLICY_LAST_ACTION
    std::copy_n(state_.raw_action, POLICY_ACTIONS, observation_.begin() + POLICY_LAST_ACTION);
#endif
    std::array<float, POLICY_ACTIONS> action;
    policy_step(&state_, observation_.data(), action.data());
    std_msgs::msg::Float64MultiArray message;
    message.data.assign(action.begin(), action.end());
    commands_->publish(message);
  }

  policy_state state_;
  std::array<float, POLICY_OBSERVATIONS> observation_{};
  bool is_new_ = false;
  rclcpp::Publisher<std_msgs::msg::Float64MultiArray>::SharedPtr commands_;
  rclcpp::Subscription<std_msgs::msg::Float32MultiArray>::SharedPtr observations_;
  rclcpp::Subscription<std_msgs::msg::Empty>::SharedPtr resets_;
  rclcpp::TimerBase::SharedPtr timer_;
};

int main(int argc, char **argv) {
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<PolicyNode>());
  rclcpp::shutdown();
}
