// MuJoCo-Warp's contacts and steps in the cases in which MuJoCo's differ, built from MuJoCo's functions. The two collision functions
// follow MuJoCo-Warp (mujoco_warp/_src/collision_primitive.py and collision_primitive_core.py, Copyright 2025 The Newton Developers,
// Apache-2.0; see THIRD_PARTY.md), rewritten in C++ for MuJoCo's collision table.
#include <vector>

#include <mujoco/mujoco.h>

namespace {

mjfCollision plane_capsule = nullptr;

// MuJoCo-Warp aligns the friction pyramid of a steep capsule on a plane with the world's axes.
int plane_capsule_as_warp(const mjModel *m, mjData *d, mjPreContact *contacts, int plane, int capsule, mjtNum margin) {
  const int count = plane_capsule(m, d, contacts, plane, capsule, margin);
  const mjtNum *turn = d->geom_xmat + 9 * capsule;
  for (int i = 0; i < count; i++) {
    const mjtNum *normal = contacts[i].normal;
    mjtNum along = 0, square = 0;
    for (int k = 0; k < 3; k++) along += normal[k] * turn[3 * k + 2];
    for (int k = 0; k < 3; k++) {
      const mjtNum across = turn[3 * k + 2] - along * normal[k];
      square += across * across;
    }
    if (square < 0.25) {
      const int is_y = normal[1] > -0.5 && normal[1] < 0.5;
      contacts[i].tangent[0] = 0;
      contacts[i].tangent[1] = is_y;
      contacts[i].tangent[2] = !is_y;
    }
  }
  return count;
}

// The vertices of a mesh, and the neighbours on its hull if it has ten vertices or more.
struct Hull {
  const float *vertices;
  int count;
  const int *edges = nullptr, *vertex_of = nullptr, *neighbours = nullptr;

  Hull(const mjModel *m, int mesh) : vertices(m->mesh_vert + 3 * m->mesh_vertadr[mesh]), count(m->mesh_vertnum[mesh]) {
    const int start = m->mesh_graphadr[mesh];
    if (start < 0 || count < 10) return;
    const int *graph = m->mesh_graph + start, on_hull = graph[0];
    edges = graph + 2;
    vertex_of = edges + on_hull;
    neighbours = vertex_of + on_hull;
  }

  // Returns the vertex with the highest score. On a hull it climbs from `place` to a vertex without a better neighbour.
  template <typename Score>
  int highest(int *place, Score score) const {
    mjtNum best = -1e6;
    int found = 0;
    if (!edges) {
      for (int i = 0; i < count; i++)
        if (const mjtNum value = score(vertices + 3 * i); value > best) best = value, found = i;
      return found;
    }
    for (int from = -1; from != *place;) {
      from = *place;
      for (const int *beside = neighbours + edges[from]; *beside >= 0; beside++)
        if (const mjtNum value = score(vertices + 3 * vertex_of[*beside]); value > best) best = value, *place = *beside;
    }
    return vertex_of[*place];
  }
};

// A contact beyond the three that MuJoCo's collision function can return.
struct Fourth {
  int plane, shape;
  mjtNum distance, position[3];
};
thread_local std::vector<Fourth> fourths;

// A mesh on a plane: MuJoCo-Warp takes the deepest vertex and three vertices, at most a millimetre less deep, that span the widest
// area with it. MuJoCo takes the deepest vertex and two neighbours. `add_fourths` adds the fourth contact.
int plane_mesh_as_warp(const mjModel *m, mjData *d, mjPreContact *contacts, int plane, int shape, mjtNum margin) {
  const mjtNum *turn = d->geom_xmat + 9 * shape, *to_world = d->geom_xmat + 9 * plane;
  const mjtNum normal[3] = {to_world[2], to_world[5], to_world[8]};
  mjtNum up[3], way[3], origin[3];  // in the frame of the mesh
  mju_mulMatTVec3(up, turn, normal);
  mju_sub3(way, d->geom_xpos + 3 * plane, d->geom_xpos + 3 * shape);
  mju_mulMatTVec3(origin, turn, way);
  const Hull hull(m, m->geom_dataid[shape]);
  const auto between = [](mjtNum *to, const float *from, const mjtNum *other) {
    for (int k = 0; k < 3; k++) to[k] = other[k] - from[k];
  };
  const auto depth = [&](const float *vertex) {
    mjtNum to[3];
    between(to, vertex, origin);
    return mju_dot3(to, up);
  };
  int place = 0, chosen[4];
  mjtNum point[4][3], across[4][3];
  const auto choose = [&](int number, auto score) {
    chosen[number] = hull.highest(&place, score);
    for (int k = 0; k < 3; k++) point[number][k] = hull.vertices[3 * chosen[number] + k];
  };
  choose(0, depth);
  const mjtNum deepest = depth(hull.vertices + 3 * chosen[0]);
  if (!hull.edges && deepest < 0) return 0;
  const mjtNum least = hull.edges ? mju_max(0, deepest - 1e-3) : deepest - 1e-3;
  if (hull.edges) choose(0, [&](const float *vertex) { return depth(vertex) > least ? depth(vertex) : -1e6; });
  const auto beside = [&](const float *vertex, int corner, const mjtNum *direction) {
    mjtNum to[3];
    between(to, vertex, point[corner]);
    return mju_abs(mju_dot3(to, direction)) - (depth(vertex) > least ? 0 : 1e6);
  };
  choose(1, [&](const float *vertex) {
    mjtNum to[3];
    between(to, vertex, point[0]);
    return mju_dot3(to, to) - (depth(vertex) > least ? 0 : 1e6);
  });
  const auto side = [&](int number, int one, int other) {
    mju_sub3(way, point[one], point[other]);
    mju_cross(across[number], up, way);
  };
  side(1, 0, 1);
  choose(2, [&](const float *vertex) { return beside(vertex, 0, across[1]); });
  side(2, 0, 2);
  side(3, 1, 2);
  choose(3, [&](const float *vertex) { return beside(vertex, 0, across[2]) + beside(vertex, 1, across[3]); });
  int number = 0;
  for (int i = 0; i < 4; i++) {
    bool is_new = true;
    for (int j = 0; j < i; j++) is_new &= chosen[j] != chosen[i];
    Fourth row{plane, shape, -depth(hull.vertices + 3 * chosen[i])};
    if (!is_new || row.distance > margin) continue;
    mju_mulMatVec3(row.position, turn, point[i]);
    mju_addTo3(row.position, d->geom_xpos + 3 * shape);
    mju_addToScl3(row.position, normal, -0.5 * row.distance);
    if (number == 3) {
      fourths.push_back(row);
      break;
    }
    mjPreContact &contact = contacts[number++];
    contact.dist = row.distance;
    mju_copy3(contact.pos, row.position);
    mju_copy3(contact.normal, normal);
    mju_zero3(contact.tangent);
  }
  return number;
}

// Adds the fourth contacts of meshes on planes after MuJoCo's collision detection; they copy the first contact except for position and
// distance. Returns the number of contacts that MuJoCo's memory could not hold.
int add_fourths(const mjModel *m, mjData *d) {
  int lost = 0;
  for (const Fourth &row : fourths) {
    mjContact contact;
    bool is_found = false;
    for (int i = 0; i < d->ncon && !is_found; i++) {
      contact = d->contact[i];
      is_found = contact.geom[0] == row.plane && contact.geom[1] == row.shape;
    }
    if (!is_found) continue;
    contact.dist = row.distance;
    mju_copy3(contact.pos, row.position);
    contact.exclude = contact.dist >= contact.includemargin;
    lost += mj_addContact(m, d, &contact);
  }
  return lost;
}

// MuJoCo recognises a lone free body by the size of its tree.
void hide_free_bodies(mjModel *m, bool hidden) {
  for (int i = 0; i < m->ntree; i++) {
    int &size = m->tree_dofnum[i];
    if ((size < 0) != hidden) size = -size;
  }
}

// The integrator implicitfast: MuJoCo treats the gyroscopic forces of free bodies implicitly, MuJoCo-Warp does not.
void implicit_as_warp(mjModel *m, mjData *d) {
  hide_free_bodies(m, m->opt.integrator == mjINT_IMPLICITFAST);
  mj_implicit(m, d);
  hide_free_bodies(m, false);
}

// MuJoCo's collision table belongs to the process; it holds our functions during the life of this object.
struct CollisionsAsWarp {
  mjfCollision plane_mesh = mjCOLLISIONFUNC[mjGEOM_PLANE][mjGEOM_MESH];

  CollisionsAsWarp() {
    plane_capsule = mjCOLLISIONFUNC[mjGEOM_PLANE][mjGEOM_CAPSULE];
    mjCOLLISIONFUNC[mjGEOM_PLANE][mjGEOM_CAPSULE] = plane_capsule_as_warp;
    mjCOLLISIONFUNC[mjGEOM_PLANE][mjGEOM_MESH] = plane_mesh_as_warp;
  }

  ~CollisionsAsWarp() {
    mjCOLLISIONFUNC[mjGEOM_PLANE][mjGEOM_CAPSULE] = plane_capsule;
    mjCOLLISIONFUNC[mjGEOM_PLANE][mjGEOM_MESH] = plane_mesh;
  }
};

}  // namespace

