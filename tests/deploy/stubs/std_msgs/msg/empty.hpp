#pragma once
namespace std_msgs::msg {
struct Empty {};
}  // namespace std_msgs::msg
