// The conversion of a world's inputs and state from Newton to MuJoCo and back, and Newton's forward kinematics. The arithmetic follows
// Newton's kernels (newton/_src/solvers/mujoco/kernels.py and newton/_src/sim/articulation.py, Copyright 2025 The Newton Developers,
// Apache-2.0) and Warp's rotations (warp/native/quat.h, Copyright 2022 NVIDIA CORPORATION & AFFILIATES, Apache-2.0; see THIRD_PARTY.md),
// rewritten in C++: Warp runs them on one thread.
#include <cmath>

// Newton's arrays of all worlds. The joints of a world are adjacent; `body_of` maps MuJoCo's bodies to Newton's.
struct Newton {
  int joints, bodies, coordinates, dofs;  // per world: Newton's joints, MuJoCo's bodies, qpos, qvel
  int actuators, targets, all_targets, inputs, all_inputs, target_dofs, gravity_worlds, compensation_stride, gravity_stride;
  int applies;  // whether a step reads controls and forces from Newton
  int step, interval;  // number of earlier steps; a step reads the state from Newton if `interval` is not 0 and divides it
  // the model: joints
  int *type, *parent, *child, *q_start, *qd_start, *axes, *articulation, *qpos_start, *qvel_start;
  float *parent_frame, *child_frame, *axis, *reference;
  // the model: bodies, [world, body] or [body of Newton]
  int *body_of, *root, *flags, *body_world, *free_start;
  float *com, *mass, *gravity, *compensation;
  // the model: actuators
  int *source, *actuated, *target;
  // Newton's state and inputs
  float *joint_q, *joint_qd, *next_q, *next_qd, *body_q, *body_qd, *body_f, *joint_f;
  float *target_q, *target_qd, *input, *body_qdd, *parent_f, *actuator_force;
  // MuJoCo-Warp's arrays, [world, ...]
  float *qpos, *qvel, *ctrl, *qfrc_applied, *xfrc_applied, *qfrc_actuator;
  float *xipos, *subtree_com, *cacc, *cvel, *cfrc_int, *world_gravity;
};

namespace newton {

enum { PRISMATIC, REVOLUTE, BALL, FIXED, FREE, DISTANCE, D6 };  // Newton's JointType
constexpr int KINEMATIC = 2;                                    // of Newton's BodyFlags

struct Vector { float x, y, z; };
struct Rotation { float x, y, z, w; };
struct Pose { Vector p; Rotation q; };
struct Pair { Vector first, second; };  // Newton's twists are (linear, angular), MuJoCo's (angular, linear)

inline Vector operator+(Vector a, Vector b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vector operator-(Vector a) { return {-a.x, -a.y, -a.z}; }
inline Vector operator*(Vector a, float s) { return {a.x * s, a.y * s, a.z * s}; }
inline Vector cross(Vector a, Vector b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }
inline Rotation inverse(Rotation q) { return {-q.x, -q.y, -q.z, q.w}; }
inline Rotation operator*(Rotation a, Rotation b) {
  return {a.w * b.x + b.w * a.x + a.y * b.z - b.y * a.z, a.w * b.y + b.w * a.y + a.z * b.x - b.z * a.x,
          a.w * b.z + b.w * a.z + a.x * b.y - b.x * a.y, a.w * b.w - a.x * b.x - a.y * b.y - a.z * b.z};
}
inline Vector rotate(Rotation q, Vector v) {
  const float c = 2.0f * q.w * q.w - 1.0f, d = 2.0f * (q.x * v.x + q.y * v.y + q.z * v.z);
  return {v.x * c + q.x * d + (q.y * v.z - q.z * v.y) * q.w * 2.0f, v.y * c + q.y * d + (q.z * v.x - q.x * v.z) * q.w * 2.0f,
          v.z * c + q.z * d + (q.x * v.y - q.y * v.x) * q.w * 2.0f};
}
inline Vector rotate_back(Rotation q, Vector v) { return rotate({-q.x, -q.y, -q.z, q.w}, v); }
inline Rotation turn(Vector axis, float angle) {
  const float half = angle * 0.5f, s = std::sin(half);
  return {axis.x * s, axis.y * s, axis.z * s, std::cos(half)};
}
inline Pose operator*(Pose a, Pose b) { return {rotate(a.q, b.p) + a.p, a.q * b.q}; }
inline Pose inverse(Pose a) { return {-rotate(inverse(a.q), a.p), inverse(a.q)}; }

inline Vector vector_at(const float *array, long i) { return {array[i], array[i + 1], array[i + 2]}; }
inline Rotation rotation_at(const float *array, long i) { return {array[i], array[i + 1], array[i + 2], array[i + 3]}; }
inline Pose pose_at(const float *array, long i) { return {vector_at(array, i), rotation_at(array, i + 3)}; }
inline Pair pair_at(const float *array, long i) { return {vector_at(array, i), vector_at(array, i + 3)}; }
// MuJoCo stores the real part first.
inline Rotation mujoco_rotation_at(const float *array, long i) { return {array[i + 1], array[i + 2], array[i + 3], array[i]}; }
inline void write(float *array, long i, Vector v) { array[i] = v.x, array[i + 1] = v.y, array[i + 2] = v.z; }
inline void write(float *array, long i, Rotation q) { write(array, i, Vector{q.x, q.y, q.z}), array[i + 3] = q.w; }
inline void write(float *array, long i, Pair t) { write(array, i, t.first), write(array, i + 3, t.second); }
inline void write_mujoco(float *array, long i, Rotation q) { array[i] = q.w, write(array, i + 1, Vector{q.x, q.y, q.z}); }

inline void apply_controls(const Newton &n, int world) {
  float *ctrl = n.ctrl + static_cast<long>(world) * n.actuators;
  for (int i = 0; i < n.actuators; i++) {
    const int at = n.actuated[i];
    if (n.source[i] != 0) {  // a control of its own
      const int input = world * n.inputs + at;
      if (input < n.all_inputs) ctrl[i] = n.input[input];
    } else if (at >= 0) {  // a position
      const int target = world * n.targets + n.target[i];
      if (n.target[i] >= 0 && target < n.all_targets) ctrl[i] = n.target_q[target];
    } else if (at < -1) {  // a velocity
      ctrl[i] = n.target_qd[world * n.target_dofs - (at + 2)];
    }
  }
}

inline void apply_joint_forces(const Newton &n, int world) {
  float *force = n.qfrc_applied + static_cast<long>(world) * n.dofs;
  for (int i = 0; i < n.joints; i++) {
    const long j = static_cast<long>(world) * n.joints + i;
    const int to = n.qvel_start[i], from = n.qd_start[j], count = n.axes[2 * j] + n.axes[2 * j + 1], type = n.type[j];
    if (to < 0) continue;  // closes a loop
    for (int k = 0; k < count; k++) force[to + k] = 0.0f;
    if (n.flags[n.child[j]] & KINEMATIC || type == FREE || type == DISTANCE) continue;
    if (type == BALL) {
      const Rotation turned = rotation_at(n.child_frame, 7 * j + 3) * inverse(rotation_at(n.joint_q, n.q_start[j]));
      write(force, to, rotate(turned, vector_at(n.joint_f, from)));
    } else {
      for (int k = 0; k < count; k++) force[to + k] = n.joint_f[from + k];
    }
  }
}

inline void apply_body_forces(const Newton &n, int world) {
  for (int i = 0; i < n.bodies; i++) {
    const long at = static_cast<long>(world) * n.bodies + i;
    const int body = n.body_of[at];
    const bool moves = body >= 0 && !(n.flags[body] & KINEMATIC);
    Pair force = {};
    if (n.body_f && moves) {
      force = pair_at(n.body_f, 6L * body);
      const int home = n.body_world[body];
      if (home >= -1 && home < n.gravity_worlds) {  // a body of all worlds has the gravity of its own world
        const float scale = n.mass[body] * (1.0f - n.compensation[static_cast<long>(world) * n.compensation_stride + i]);
        const int row = home < 0 ? n.gravity_worlds - 1 : home;
        force.first = force.first + (vector_at(n.gravity, 3L * row) - vector_at(n.gravity, 3L * world)) * scale;
      }
    } else if (!n.body_f) {
      force = pair_at(n.xfrc_applied, 6 * at);
    }
    if (n.joint_f && moves && n.free_start[body] >= 0) {
      const Pair joint = pair_at(n.joint_f, n.free_start[body]);
      force = {force.first + joint.first, force.second + joint.second};
    }
    write(n.xfrc_applied, 6 * at, force);
  }
}

inline void read_coordinates(const Newton &n, int world) {
  float *qpos = n.qpos + static_cast<long>(world) * n.coordinates, *qvel = n.qvel + static_cast<long>(world) * n.dofs;
  for (int i = 0; i < n.joints; i++) {
    const long j = static_cast<long>(world) * n.joints + i;
    const int q = n.qpos_start[i], v = n.qvel_start[i], from_q = n.q_start[j], from_v = n.qd_start[j];
    if (q < 0) continue;
    if (n.type[j] == FREE) {
      const Pose above = pose_at(n.parent_frame, 7 * j);
      const Pose body = above * pose_at(n.joint_q, from_q) * inverse(pose_at(n.child_frame, 7 * j));
      const Vector linear = rotate(above.q, vector_at(n.joint_qd, from_v));
      const Vector angular = rotate(above.q, vector_at(n.joint_qd, from_v + 3));
      write(qpos, q, body.p);
      write_mujoco(qpos, q + 3, body.q);
      write(qvel, v, linear - cross(angular, rotate(body.q, vector_at(n.com, 3L * n.child[j]))));
      write(qvel, v + 3, rotate_back(body.q, angular));
    } else if (n.type[j] == BALL) {
      const Rotation below = rotation_at(n.child_frame, 7 * j + 3), turned = rotation_at(n.joint_q, from_q);
      write_mujoco(qpos, q, below * turned * inverse(below));
      write(qvel, v, rotate(below * inverse(turned), vector_at(n.joint_qd, from_v)));
    } else {
      const int count = n.axes[2 * j] + n.axes[2 * j + 1];
      for (int k = 0; k < count; k++) {
        qpos[q + k] = n.joint_q[from_q + k] + (n.reference ? n.reference[from_v + k] : 0.0f);
        qvel[v + k] = n.joint_qd[from_v + k];
      }
    }
  }
}

// Writes the inputs of MuJoCo's step of a world; `i` counts the steps of this call.
inline void to_mujoco(const Newton &n, int world, int i) {
  if (n.applies) {
    if (n.actuators) apply_controls(n, world);
    if (n.joint_f) apply_joint_forces(n, world);
    apply_body_forces(n, world);
  }
  if (n.interval > 0 && (n.step + i) % n.interval == 0) read_coordinates(n, world);
}

inline void write_coordinates(const Newton &n, int world) {
  const float *qpos = n.qpos + static_cast<long>(world) * n.coordinates, *qvel = n.qvel + static_cast<long>(world) * n.dofs;
  for (int i = 0; i < n.joints; i++) {
    const long j = static_cast<long>(world) * n.joints + i;
    const int q = n.qpos_start[i], v = n.qvel_start[i], to_q = n.q_start[j], to_v = n.qd_start[j];
    if (q < 0) continue;
    if (n.flags[n.child[j]] & KINEMATIC) {
      for (int k = to_q; k < n.q_start[j + 1]; k++) n.next_q[k] = n.joint_q[k];
      for (int k = to_v; k < n.qd_start[j + 1]; k++) n.next_qd[k] = n.joint_qd[k];
    } else if (n.type[j] == FREE) {
      const Pose above = pose_at(n.parent_frame, 7 * j), body = {vector_at(qpos, q), mujoco_rotation_at(qpos, q + 3)};
      const Pose joint = inverse(above) * body * pose_at(n.child_frame, 7 * j);
      const Vector angular = rotate(body.q, vector_at(qvel, v + 3));
      const Vector linear = vector_at(qvel, v) + cross(angular, rotate(body.q, vector_at(n.com, 3L * n.child[j])));
      write(n.next_q, to_q, joint.p);
      write(n.next_q, to_q + 3, joint.q);
      write(n.next_qd, to_v, rotate_back(above.q, linear));
      write(n.next_qd, to_v + 3, rotate_back(above.q, angular));
    } else if (n.type[j] == BALL) {
      const Rotation below = rotation_at(n.child_frame, 7 * j + 3), anchor = inverse(below) * mujoco_rotation_at(qpos, q);
      write(n.next_q, to_q, anchor * below);
      write(n.next_qd, to_v, rotate(anchor, vector_at(qvel, v)));
    } else {
      const int count = n.axes[2 * j] + n.axes[2 * j + 1];
      for (int k = 0; k < count; k++) {
        n.next_q[to_q + k] = qpos[q + k] - (n.reference ? n.reference[to_v + k] : 0.0f);
        n.next_qd[to_v + k] = qvel[v + k];
      }
    }
  }
}

inline Rotation from_columns(Vector a, Vector b, Vector c) {
  const float m[3][3] = {{a.x, b.x, c.x}, {a.y, b.y, c.y}, {a.z, b.z, c.z}}, trace = m[0][0] + m[1][1] + m[2][2];
  float q[4];
  if (trace >= 0.0f) {
    const float root = std::sqrt(trace + 1.0f), h = 0.5f / root;
    q[0] = (m[2][1] - m[1][2]) * h, q[1] = (m[0][2] - m[2][0]) * h, q[2] = (m[1][0] - m[0][1]) * h, q[3] = 0.5f * root;
  } else {
    int i = m[1][1] > m[0][0] ? 1 : 0;
    if (m[2][2] > m[i][i]) i = 2;
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    const float root = std::sqrt((m[i][i] - (m[j][j] + m[k][k])) + 1.0f), h = 0.5f / root;
    q[i] = 0.5f * root, q[j] = (m[i][j] + m[j][i]) * h, q[k] = (m[k][i] + m[i][k]) * h, q[3] = (m[k][j] - m[j][k]) * h;
  }
  const float length = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  if (!(length > 0.0f)) return {0.0f, 0.0f, 0.0f, 1.0f};
  return {q[0] / length, q[1] / length, q[2] / length, q[3] / length};
}

// Computes the pose and motion across a joint of several axes.
inline void free_axes(const Newton &n, long j, const float *q, const float *qd, Pose &across, Pair &motion) {
  const int linear = n.axes[2 * j], angular = n.axes[2 * j + 1];
  const float *axis = n.axis + 3L * n.qd_start[j];
  for (int k = 0; k < linear; k++) {
    across.p = across.p + vector_at(axis, 3 * k) * q[k];
    motion.first = motion.first + vector_at(axis, 3 * k) * qd[k];
  }
  axis += 3 * linear, q += linear, qd += linear;
  Vector axes[3];
  for (int k = 0; k < angular; k++) axes[k] = vector_at(axis, 3 * k);
  if (angular == 2) {
    const Rotation basis = from_columns(axes[0], axes[1], cross(axes[0], axes[1]));
    axes[0] = rotate(basis, {1.0f, 0.0f, 0.0f});
    axes[1] = rotate(basis, {0.0f, 1.0f, 0.0f});
  }
  for (int k = 0; k < angular; k++) {
    const Vector now = k ? rotate(across.q, axes[k]) : axes[k];
    const Rotation step = turn(now, q[k]);
    across.q = k ? step * across.q : step;
    motion.second = k ? motion.second + now * qd[k] : now * qd[k];
  }
}

// Computes poses and twists of a world's bodies; `mask` chooses articulations, null chooses all.
inline void kinematics(const Newton &n, const float *joint_q, const float *joint_qd, int world, const unsigned char *mask) {
  for (long j = static_cast<long>(world) * n.joints, end = j + n.joints; j < end; j++) {
    if (n.articulation[j] < 0 || (mask && !mask[n.articulation[j]])) continue;
    const int type = n.type[j], parent = n.parent[j], child = n.child[j];
    const float *q = joint_q + n.q_start[j], *qd = joint_qd + n.qd_start[j];
    Pose across = {{0, 0, 0}, {0, 0, 0, 1}};
    Pair motion = {};
    if (type == FREE || type == DISTANCE) {
      across = pose_at(q, 0), motion = pair_at(qd, 0);
    } else if (type == BALL) {
      across.q = rotation_at(q, 0), motion.second = vector_at(qd, 0);
    } else if (type == REVOLUTE) {
      const Vector axis = vector_at(n.axis, 3L * n.qd_start[j]);
      across.q = turn(axis, q[0]), motion.second = axis * qd[0];
    } else if (type == PRISMATIC) {
      const Vector axis = vector_at(n.axis, 3L * n.qd_start[j]);
      across.p = axis * q[0], motion.first = axis * qd[0];
    } else if (type == D6) {
      free_axes(n, j, q, qd, across, motion);
    }
    Pose frame = pose_at(n.parent_frame, 7 * j), above = {};
    if (parent >= 0) above = pose_at(n.body_q, 7L * parent), frame = above * frame;
    const Pose joint = frame * across, body = joint * inverse(pose_at(n.child_frame, 7 * j));
    const Vector com = rotate(body.q, vector_at(n.com, 3L * child));
    Vector linear = rotate(frame.q, motion.first), angular = rotate(frame.q, motion.second);
    const Vector arm = type == FREE || type == DISTANCE ? -com : body.p - joint.p;
    linear = linear + cross(angular, arm);
    if (parent >= 0) {
      const Pair twist = pair_at(n.body_qd, 6L * parent);
      const Vector centre = above.p + rotate(above.q, vector_at(n.com, 3L * parent));
      linear = twist.first + cross(twist.second, body.p - centre) + linear;
      angular = twist.second + angular;
    }
    write(n.body_q, 7L * child, body.p);
    write(n.body_q, 7L * child + 3, body.q);
    write(n.body_qd, 6L * child, Pair{linear + cross(angular, com), angular});
  }
}

// Writes the accelerations of bodies and the forces on their parents.
inline void write_body_forces(const Newton &n, int world) {
  for (int i = 0; i < n.bodies; i++) {
    const long at = static_cast<long>(world) * n.bodies + i, root = static_cast<long>(world) * n.bodies + n.root[i];
    const int body = n.body_of[at];
    if (body < 0) continue;
    const Vector offset = vector_at(n.xipos, 3 * at) - vector_at(n.subtree_com, 3 * root);
    if (n.body_qdd) {
      const Pair a = pair_at(n.cacc, 6 * at), v = pair_at(n.cvel, 6 * at);
      const Vector linear = v.second - cross(offset, v.first);
      const Vector acceleration = a.second - cross(offset, a.first) + cross(v.first, linear);
      write(n.body_qdd, 6L * body, Pair{acceleration + vector_at(n.world_gravity, static_cast<long>(world) * n.gravity_stride), a.first});
    }
    if (n.parent_f) {
      const Pair force = pair_at(n.cfrc_int, 6 * at);
      write(n.parent_f, 6L * body, Pair{force.second, force.first - cross(offset, force.second)});
    }
  }
}

inline void write_actuator_forces(const Newton &n, int world) {
  const float *force = n.qfrc_actuator + static_cast<long>(world) * n.dofs;
  const float *qpos = n.qpos + static_cast<long>(world) * n.coordinates;
  for (int i = 0; i < n.joints; i++) {
    const long j = static_cast<long>(world) * n.joints + i;
    const int q = n.qpos_start[i], v = n.qvel_start[i], to = n.qd_start[j];
    if (q < 0) continue;
    if (n.type[j] == FREE) {
      const Rotation turned = mujoco_rotation_at(qpos, q + 3);
      const Vector linear = vector_at(force, v), com = rotate(turned, vector_at(n.com, 3L * n.child[j]));
      write(n.actuator_force, to, linear);
      write(n.actuator_force, to + 3, rotate(turned, vector_at(force, v + 3)) - cross(com, linear));
    } else if (n.type[j] == BALL) {
      const Rotation anchor = inverse(rotation_at(n.child_frame, 7 * j + 3)) * mujoco_rotation_at(qpos, q);
      write(n.actuator_force, to, rotate(anchor, vector_at(force, v)));
    } else {
      for (int k = 0; k < n.axes[2 * j] + n.axes[2 * j + 1]; k++) n.actuator_force[to + k] = force[v + k];
    }
  }
}

// Writes Newton's state after a step of MuJoCo: joints, and if `whole` also bodies and forces.
inline void to_newton(const Newton &n, int world, bool whole) {
  write_coordinates(n, world);
  if (!whole) return;
  kinematics(n, n.next_q, n.next_qd, world, nullptr);
  if (n.body_qdd || n.parent_f) write_body_forces(n, world);
  if (n.actuator_force) write_actuator_forces(n, world);
}

}  // namespace newton
